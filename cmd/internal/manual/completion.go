package manual

import (
	"bytes"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Completion gives a command line the command completion, as cobra has it, but
// for bash: cobra's script wants functions of the package bash-completion, which
// many hosts do not have. Call it when the root knows where its output goes.
func Completion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	bash, _, err := root.Find([]string{"completion", "bash"})
	if err != nil {
		return // a command line without subcommands
	}
	bash.RunE = func(cmd *cobra.Command, _ []string) error {
		plain, err := cmd.Flags().GetBool("no-descriptions")
		if err != nil {
			return err
		}
		var script bytes.Buffer
		if err := root.GenBashCompletionV2(&script, !plain); err != nil {
			return err
		}
		_, err = io.WriteString(cmd.OutOrStdout(), alone.Replace(script.String()))
		return err
	}
}

// alone has the script do by itself what it asks of bash-completion: words are
// what stands between blanks, and file names are bash's own business.
var alone = strings.NewReplacer(
	`    _get_comp_words_by_ref "$@" cur prev words cword
`, `    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=
    ((cword == 0)) || prev=${words[cword - 1]}
`,
	`        filteringCmd="_filedir $fullFilter"
`, `        declare -F _filedir >/dev/null 2>&1 || return
        filteringCmd="_filedir $fullFilter"
`)
