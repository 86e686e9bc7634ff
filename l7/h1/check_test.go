package h1

import (
	"errors"
	"testing"
)

func TestOtherProtocolsAreJudgedAlike(t *testing.T) {
	for _, x := range []struct {
		method, target string
		want           error
	}{
		{"GET", "/", nil},
		{"GET", "/a%2F?q=%zz&x=[1|2]", nil},
		{"OPTIONS", "*", nil},
		{"GET", "*", errTarget},
		{"GET", "", errTarget},
		{"GET", "http://a/", errTarget},
		{"GET", "/x HTTP/1.1", errTargetByte},
		{"GET", "/#f", errTargetByte},
		{"GET", "/\xc3\xa4", errTargetByte},
		{"GET", "/%zz", errEscape},
		{"TRACE", "/", errMethodHere},
		{"CONNECT", "a:1", errMethodHere},
	} {
		if err := CheckTarget(x.method, x.target, &Limits{}); !errors.Is(err, x.want) {
			t.Errorf("%s %s: got %v, want %v", x.method, x.target, err, x.want)
		}
	}
	if CheckHost("a:80") != nil || CheckHost("") == nil || CheckHost("a@b") == nil || CheckHost("a/b") == nil {
		t.Error("hosts")
	}
	for name, want := range map[string]bool{"x-a": true, "x_a": false, "proxy-authorization": false} {
		if keep, err := CheckField(name, "1"); keep != want || err != nil {
			t.Errorf("%s: %v, %v", name, keep, err)
		}
	}
	if _, err := CheckField("expect", "more"); err == nil {
		t.Error("an unknown expectation")
	}
}
