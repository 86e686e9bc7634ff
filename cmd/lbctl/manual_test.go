package main

import (
	"testing"

	"github.com/cirque-lb/lb/cmd/internal/manual"
)

func TestTheManualIsThatOfTheCommands(t *testing.T) {
	about := manual.About{Name: "lbctl", Section: "1", Sections: []manual.Section{
		{Head: "Exit status", Terms: [][2]string{
			{"0", "done"}, {"1", "an error"}, {"2", "the command line is not understood"}, {"3", "the configuration is refused"},
			{"4", "waiting took too long"}, {"5", "not found, or in conflict with what is there"}, {"6", "a privilege or a kernel feature is missing"},
			{"7", "the daemon does not answer"}, {"8", "degraded: something is broken that an operator can mend"},
		}},
		{Head: "Environment", Terms: [][2]string{{"LBCTL_ADDR", "the admin socket, when --addr does not say"}, {"NO_COLOR", "no colours on a terminal"}}},
		{Head: "Files", Terms: [][2]string{{"/run/lbd/lbd.sock", "the admin socket; root and the group lbd-admin may use it"}}},
		{Head: "See also", Text: []string{"lbd(8), lbd.yaml(5)"}},
	}}
	root := (&ctl{}).root()
	manual.Check(t, "../../packaging/man/lbctl.1", manual.Roff(root, about))
	manual.Check(t, "../../docs/reference/lbctl.md", manual.Markdown(root, about))
}
