package lb

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestErrorsOfALongLineHoldWhatIsAboutTheirPlace(t *testing.T) {
	var pools []string
	for i := range 3000 {
		pools = append(pools, fmt.Sprintf(`"pöol-%d": {"backends": ["10.0.0.1:80"], "wrong-%d": 1}`, i, i))
	}
	text := `{"listeners": {"web": {"bind": ":80"}}, "pools": {` + strings.Join(pools, ", ") + `}}`
	_, err := Parse([]byte(text), Options{Host: testHost})
	var all Errors
	if !errors.As(err, &all) || len(all) < 500 {
		t.Fatalf("%d errors", len(all))
	}
	answer, err := json.Marshal(all)
	if err != nil || len(answer) > 4<<20 {
		t.Errorf("%d errors of a document of %d bytes have %d bytes (%v)", len(all), len(text), len(answer), err)
	}
	for i, e := range all {
		whole := *e
		whole.Excerpt, whole.before = text, 0
		if i%50 == 0 && e.Error() != whole.Error() {
			t.Fatalf("it shows\n%s\nwant\n%s", e, whole.Error())
		}
	}
}
