package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
)

var formats = []string{"table", "wide", "json", "yaml", "name"}

// table is rows under headings. Columns after the first Narrow ones are shown
// by -o wide only.
type table struct {
	heads  []string
	narrow int // columns of -o table; 0: all
	rows   [][]string
	names  []string // what -o name prints
}

func (t *table) add(name string, cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = cell(c)
	}
	t.rows = append(t.rows, row)
	t.names = append(t.names, name)
}

// cell shows a value in a table: what is empty is a dash.
func cell(v any) string {
	text := fmt.Sprint(v)
	if text == "" || text == "[]" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' ' // a value must not drive the terminal
		}
		return r
	}, text)
}

func (t *table) write(w io.Writer, wide bool) error {
	columns := len(t.heads)
	if !wide && t.narrow > 0 {
		columns = t.narrow
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(t.heads[:columns], "\t"))
	for _, row := range t.rows {
		fmt.Fprintln(tw, strings.Join(row[:columns], "\t"))
	}
	return tw.Flush()
}

// show prints a result in the wanted form: v for machines, t for people.
func (c *ctl) show(v any, t *table) error {
	switch c.format {
	case "json":
		return writeJSON(c.out, v)
	case "yaml":
		return writeYAML(c.out, v)
	case "name":
		for _, n := range t.names {
			fmt.Fprintln(c.out, n)
		}
		return nil
	}
	return t.write(c.out, c.format == "wide")
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeYAML gives the same names as JSON.
func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	text, err = yaml.JSONToYAML(text)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// verdict prints what has no table: JSON and YAML for machines, a sentence else.
func (c *ctl) verdict(v any, name, format string, args ...any) error {
	switch c.format {
	case "json":
		return writeJSON(c.out, v)
	case "yaml":
		return writeYAML(c.out, v)
	case "name":
		_, err := fmt.Fprintln(c.out, name)
		return err
	}
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}
