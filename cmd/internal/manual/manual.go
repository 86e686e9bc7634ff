// Package manual writes the manual of a command line out of its commands, as a
// man page, as Markdown and as completions of shells, so that none can say what
// the program does not.
package manual

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// About is what the commands do not say themselves.
type About struct {
	Name, Section string
	Sections      []Section // after the commands
}

// Section is a heading and paragraphs, or a list of terms.
type Section struct {
	Head  string
	Text  []string
	Terms [][2]string
}

// Roff is the man page of a command line.
func Roff(root *cobra.Command, a About) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" Made from the commands: UPDATE=1 go test ./cmd/lbd/app ./cmd/lbctl -run Manual\n.TH %s %s \"\" Cirque \"Cirque's manual\"\n",
		strings.ToUpper(a.Name), a.Section)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", a.Name, text(root.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.I command\n[\\fIflags\\fR]\n", a.Name)
	if root.Long != "" {
		b.WriteString(".SH DESCRIPTION\n" + text(root.Long) + "\n")
	}
	b.WriteString(".SH COMMANDS\n")
	for _, c := range Commands(root) {
		fmt.Fprintf(&b, ".SS %s\n%s.\n", text(usage(c)), text(c.Short))
		if c.Long != "" {
			b.WriteString(".PP\n" + paragraphs(c.Long) + "\n")
		}
		flags(c.NonInheritedFlags(), func(name, what string) { fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", text(name), text(what)) })
	}
	b.WriteString(".SH OPTIONS\n")
	flags(root.PersistentFlags(), func(name, what string) { fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", text(name), text(what)) })
	b.WriteString(".TP\n.B \\-h, \\-\\-help\nWhat a command does.\n")
	for _, s := range a.Sections {
		fmt.Fprintf(&b, ".SH %s\n", strings.ToUpper(s.Head))
		for i, p := range s.Text {
			if i > 0 {
				b.WriteString(".PP\n")
			}
			b.WriteString(text(p) + "\n")
		}
		for _, t := range s.Terms {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", text(t[0]), text(t[1]))
		}
	}
	return []byte(b.String())
}

// Markdown is the same as a page of the documentation.
func Markdown(root *cobra.Command, a About) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n<!-- Made from the commands: UPDATE=1 go test ./cmd/lbd/app ./cmd/lbctl -run Manual -->\n\n%s.\n", a.Name, root.Short)
	if root.Long != "" {
		b.WriteString("\n" + root.Long + "\n")
	}
	for _, c := range Commands(root) {
		fmt.Fprintf(&b, "\n## %s\n\n    %s\n\n%s.\n", c.CommandPath(), usage(c), c.Short)
		if c.Long != "" {
			b.WriteString("\n" + c.Long + "\n")
		}
		table(&b, c.NonInheritedFlags())
	}
	if root.HasPersistentFlags() {
		b.WriteString("\n## Flags of every command\n")
		table(&b, root.PersistentFlags())
	}
	for _, s := range a.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s", s.Head, strings.Join(s.Text, "\n\n"))
		if len(s.Text) > 0 {
			b.WriteString("\n")
		}
		for _, t := range s.Terms {
			fmt.Fprintf(&b, "- `%s`: %s\n", t[0], t[1])
		}
	}
	return []byte(b.String())
}

// Commands lists what a user can call, nouns' verbs included.
func Commands(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		switch {
		case !sub.IsAvailableCommand() || sub.Name() == "help" || sub.Name() == "completion":
		case sub.HasAvailableSubCommands():
			all = append(all, Commands(sub)...)
		default:
			all = append(all, sub)
		}
	}
	return all
}

func usage(c *cobra.Command) string {
	line := c.UseLine()
	if c.HasAvailableLocalFlags() && !strings.Contains(line, "[flags]") {
		line += " [flags]"
	}
	return line
}

func flags(set *pflag.FlagSet, each func(name, what string)) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, what := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" && f.DefValue != "0s" {
			what += " (default " + f.DefValue + ")"
		}
		each(name, what)
	})
}

func table(b *strings.Builder, set *pflag.FlagSet) {
	head := "\n| flag | |\n|---|---|\n"
	flags(set, func(name, what string) {
		fmt.Fprintf(b, "%s| `%s` | %s |\n", head, name, strings.ReplaceAll(what, "|", "\\|"))
		head = ""
	})
}

// paragraphs keeps the lines of examples.
func paragraphs(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		switch {
		case line == "":
			out = append(out, ".PP")
		case strings.HasPrefix(line, " "):
			out = append(out, ".nf", text(line), ".fi")
		default:
			out = append(out, text(line))
		}
	}
	return strings.Join(out, "\n")
}

// text makes a text safe in roff.
func text(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
