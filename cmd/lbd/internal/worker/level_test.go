package worker

import (
	"log/slog"
	"testing"

	"github.com/cirque-lb/lb"
)

func TestAWorkerLogsAsItsConfigurationSays(t *testing.T) {
	p := &process{level: new(slog.LevelVar), sockets: newHolding()}
	for generation, level := range map[uint64]slog.Level{1: slog.LevelError, 2: slog.LevelDebug} {
		c := &lb.Config{Log: lb.LogSettings{Level: level.String()}}
		p.built = &built{document{Generation: generation}, c, func() {}}
		if err := p.commit(commitRequest{generation}); err != nil || p.level.Level() != level {
			t.Errorf("got %v (%v), want %v", p.level, err, level)
		}
	}
}
