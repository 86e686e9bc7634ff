package lb

import (
	"os"
	"testing"
)

func TestQuickstartParses(t *testing.T) {
	text, err := os.ReadFile("examples/quickstart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(text, Options{File: "quickstart.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	app := c.Pool("app")
	if app == nil || len(app.Backends) != 3 || app.Backends[2].Weight != 2 || app.Backends[0].Weight != 1 {
		t.Errorf("pool app: got %+v", app)
	}
	if app.Check.Timeout.String() != "1s" || app.Check.HTTP != "/healthz" {
		t.Errorf("check: got %+v", app.Check)
	}
	if c.Routes[0].Timeout.Request.String() != "1m0s" || c.Listener("web").Bind.String() != "[::]:8080" {
		t.Errorf("got %+v", c.Routes[0])
	}
}
