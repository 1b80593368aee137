package appliance

import (
	"io"
	"log/slog"

	"strongroom/appliance/config"
)

// newLogger makes a node's logger. The configuration was checked before.
func newLogger(c config.Log, name string, to io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			level = slog.LevelInfo
		}
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(to, options)
	if c.Format == "json" {
		handler = slog.NewJSONHandler(to, options)
	}
	return slog.New(handler).With("node", name)
}
