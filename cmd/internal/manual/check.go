package manual

import (
	"bytes"
	"os"
	"testing"
)

// Check fails when a file does not say what it should; with UPDATE=1 in the
// environment it does from then on.
func Check(t *testing.T, file string, want []byte) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code says (%v); UPDATE=1 go test writes it", file, err)
	}
}
