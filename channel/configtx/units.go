package configtx

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"
)

// Size is a number of bytes. In YAML it is a whole number, or one with a unit of
// 1024: "512 KB", "16 MB", "1g".
type Size uint32

var sizePattern = regexp.MustCompile(`^([0-9]+)\s*([kKmMgG])?[bB]?$`)

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	size, err := parseSize(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: size %q: write a whole number of bytes, or one with KB, MB or GB, below 4 GB", n.Line, n.Value)
	}
	*s = size
	return nil
}

func parseSize(text string) (Size, error) {
	match := sizePattern.FindStringSubmatch(strings.TrimSpace(text))
	if match == nil {
		return 0, fmt.Errorf("size %q is not a number of bytes", text)
	}
	n, err := strconv.ParseUint(match[1], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", text, err)
	}
	n <<= map[string]uint{"": 0, "k": 10, "m": 20, "g": 30}[strings.ToLower(match[2])]
	if n > math.MaxUint32 {
		return 0, fmt.Errorf("size %q is 4 GB or more", text)
	}
	return Size(n), nil
}

// Duration is a time span. In YAML it is written as "2s" or "500ms".
type Duration time.Duration

// UnmarshalYAML reads a time span.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: time span %q: write a number with a unit, such as 2s or 500ms", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}
