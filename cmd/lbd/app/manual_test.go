package app

import (
	"testing"

	"github.com/cirque-lb/lb/cmd/internal/manual"
)

func TestTheManualIsThatOfTheCommands(t *testing.T) {
	about := manual.About{Name: "lbd", Section: "8", Sections: []manual.Section{
		{Head: "Signals", Terms: [][2]string{
			{"HUP", "reads the configuration again; one that is not valid changes nothing"},
			{"TERM, INT", "drains, then exits; a second one exits at once"},
			{"USR1", "opens the logs again, after a rotation"},
			{"USR2", "upgrades: the workers, then lbd itself, are replaced by the program at lbd's path; no connection is dropped"},
		}},
		{Head: "Exit status", Terms: [][2]string{
			{"0", "done"}, {"1", "an error"}, {"2", "the command line is not understood"}, {"3", "the configuration is refused"},
			{"5", "another lbd is in the way"}, {"6", "a privilege or a kernel feature is missing"},
		}},
		{Head: "Environment", Terms: [][2]string{
			{"NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS", "systemd's, for Type=notify, WatchdogSec= and FileDescriptorStoreMax="},
		}},
		{Head: "Files", Terms: [][2]string{
			{"/etc/lbd/lbd.yaml", "the configuration"}, {"/var/lib/lbd", "generations, operators' orders, the audit log"},
			{"/run/lbd", "the admin socket and the workers' control sockets"}, {"/sys/fs/bpf/lbd", "pinned programs and maps, which outlive lbd; lbd detach removes them"},
		}},
		{Head: "See also", Text: []string{"lbctl(1), lbd.yaml(5)"}},
	}}
	manual.Check(t, "../../../packaging/man/lbd.8", manual.Roff(newRoot(), about))
	manual.Check(t, "../../../docs/reference/lbd.md", manual.Markdown(newRoot(), about))
}
