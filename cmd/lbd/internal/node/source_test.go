package node

import (
	"testing"

	"github.com/cirque-lb/lb"
)

// Workers get one text, whatever form its two parts have.
func TestSettingsAndObjectsAreOneDocument(t *testing.T) {
	settings := map[string]string{
		"block": "# ours\nnode: { name: edge-1 }\n", "with objects": "---\nnode: { name: edge-1 }\nlisteners: { old: { bind: \":9\" } }\n",
		"dots": "node: { name: edge-1 }\n...\n", "braces": "{node: {name: edge-1}}\n", "nothing": "",
	}
	objects := map[string]string{
		"block":   "listeners:\n  web: { bind: \":80\", protocol: http }\nroutes: [{ respond: { status: 200 } }]\n",
		"dashes":  "---\n# the shop\nlisteners: { web: { bind: \":80\" } }\nroutes:\n  - respond: { status: 200 }\n...\n",
		"JSON":    `{"listeners": {"web": {"bind": ":80"}}, "routes": [{"respond": {"status": 200}}]}`,
		"nothing": "{}\n",
	}
	for form, a := range settings {
		for other, b := range objects {
			s := source{owner: OwnedDocument, file: "lbd.yaml", settings: []byte(a), objects: []byte(b)}
			want, err := s.parse(nil)
			if err != nil {
				t.Fatalf("settings %s, objects %s: %v", form, other, err)
			}
			got, err := lb.Parse(s.document(), lb.Options{})
			if err != nil {
				t.Errorf("settings %s, objects %s: %v\n%s", form, other, err, s.document())
				continue
			}
			if got.Node.Name != want.Node.Name || len(got.Listeners) != len(want.Listeners) || len(got.Routes) != len(want.Routes) {
				t.Errorf("settings %s, objects %s: the workers get\n%s", form, other, s.document())
			}
		}
	}
}
