package probe

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"
	"go.yaml.in/yaml/v3"
)

func (b *Bench) mechanisms() []string {
	numbers := make([]uint, 0, len(b.offers))
	for m := range b.offers {
		numbers = append(numbers, m)
	}
	slices.Sort(numbers)
	out := make([]string, len(numbers))
	for i, m := range numbers {
		out[i] = fmt.Sprintf("0x%X", m)
	}
	return out
}

var notInID = regexp.MustCompile(`[^a-z0-9.]+`)

// Draft is a first firmware profile of the device, for a person to complete: what the
// probe saw, and nothing that it cannot see. Where the device computes a verification,
// above all, only its vendor can say.
func (r *Report) Draft() ([]byte, error) {
	passed := func(check string) bool {
		return slices.ContainsFunc(r.Results, func(x Result) bool { return x.Check == check && x.Status == Pass })
	}
	answer := func(yes bool) string {
		if yes {
			return "yes"
		}
		return "no"
	}
	gaps := make(map[string]string)
	for _, result := range r.Results {
		if result.Status != Pass {
			gaps[result.Check] = "seen by the probe: " + result.Detail
		}
	}
	curves := []string{}
	for check, curve := range map[string]string{"sign-p256": "P-256", "sign-p384": "P-384"} {
		if passed(check) {
			curves = append(curves, curve)
		}
	}
	slices.Sort(curves)
	gcm, wrap := "unknown", "unknown"
	if passed("gcm") {
		gcm = "caller"
		for _, result := range r.Results {
			if result.Check == "gcm" && result.Detail != "caller's IV" {
				gcm = "unknown"
			}
		}
	} else if !slices.Contains(r.Mechanisms, fmt.Sprintf("0x%X", p11.CKM_AES_GCM)) {
		gcm = "none"
	}
	if passed("key-wrap") {
		wrap = "CKM_AES_KEY_WRAP"
	}
	id := strings.Trim(notInID.ReplaceAllString(strings.ToLower(r.Token.Model+"-"+r.Token.Firmware), "-"), "-.")
	body, err := yaml.Marshal(map[string]any{
		"id": "draft-" + id, "vendor": orUnknown(r.Token.Manufacturer), "model": orUnknown(r.Token.Model), "firmware": orUnknown(r.Token.Firmware),
		"client": r.Token.LibraryVersion, "token": "hardware", "modules": []string{r.Token.Module}, "cryptoki": r.Token.CryptokiVersion,
		"slots":      map[string]any{"select": []string{"label", "serial"}},
		"signing":    map[string]any{"curves": curves},
		"publicKeys": map[string]any{"import": answer(passed("import"))},
		"verify":     map[string]any{"location": "unknown"},
		"aes":        map[string]any{"gcm": map[string]any{"iv": gcm}, "wrap": map[string]any{"mechanism": wrap}},
		"gaps":       gaps, "unconfirmed": []string{"vendor", "model", "firmware", "token", "slots"},
	})
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf("# A draft, made by `strongroom token probe` on %s from serial %q. Ask the vendor where\n# C_Verify computes and say it in verify.location; complete it as the other profiles are.\n",
		r.Time.Format("2006-01-02"), r.Token.Serial)
	return append([]byte(head), body...), nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
