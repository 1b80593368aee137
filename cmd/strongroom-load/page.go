package main

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

// page is a self-contained HTML page: the figures, and plots as inline SVG. It loads
// nothing.
var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>strongroom-load: {{.Report.Work}} at {{.Report.Endpoint}}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1c2430;background:#fff}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .9em;text-align:right;border-bottom:1px solid #d8dee6}
td:first-child,th:first-child{text-align:left}figure{margin:1.5em 0}figcaption{font-weight:600}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#5a6676}
</style></head><body>
<h1>{{.Report.Work}}: {{printf "%.1f" .Report.PerSecond}} a second</h1>
<p>{{.Report.Endpoint}}, channel {{.Report.Channel}}, chaincode {{.Report.Chaincode}}; {{.Report.InFlight}} in flight, {{printf "%.1f" .Report.Seconds}} s counted,
values of {{.Report.ValueSize}} bytes, {{.Report.Conflicts}} % conflicting writes; {{.Report.Time.Format "2006-01-02 15:04:05 MST"}};
load average {{printf "%.2f" .Report.LoadBefore}} before, {{printf "%.2f" .Report.LoadAfter}} after.</p>
<table><tr><th>latency, ms</th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>
{{range .Rows}}<tr><td>{{.Name}}</td><td>{{.P.Count}}</td><td>{{.P.Mean}}</td><td>{{.P.P50}}</td><td>{{.P.P90}}</td><td>{{.P.P99}}</td><td>{{.P.P999}}</td><td>{{.P.Max}}</td></tr>
{{end}}</table>
<table><tr><th>outcome</th><th>count</th><th>first message</th></tr>
{{range $name, $n := .Report.Outcomes}}<tr><td>{{$name}}</td><td>{{$n}}</td><td>{{index $.Report.Said $name}}</td></tr>
{{end}}</table>
{{range .Plots}}<figure><figcaption>{{.Title}}</figcaption>
<svg viewBox="0 0 800 260" role="img" aria-label="{{.Title}}">
{{range .Grid}}<line x1="60" x2="790" y1="{{.Y}}" y2="{{.Y}}" stroke="#e4e8ee"/><text x="54" y="{{.Y}}" dy="4" text-anchor="end">{{.Label}}</text>
{{end}}{{range .Ticks}}<text x="{{.X}}" y="248" text-anchor="middle">{{.Label}}</text>
{{end}}{{range .Lines}}<polyline fill="none" stroke="{{.Color}}" stroke-width="1.6" points="{{.Points}}"/>
{{end}}{{range .Lines}}<text x="70" y="{{.KeyY}}" style="fill:{{.Color}}">{{.Name}}</text>
{{end}}</svg></figure>
{{end}}</body></html>
`))

type mark struct {
	X, Y  float64
	Label string
}

type line struct {
	Name, Color string
	KeyY        int
	x, y        []float64
	Points      string
}

type plot struct {
	Title string
	Lines []*line
	Grid  []mark
	Ticks []mark
}

// The plot's area inside the SVG.
const left, right, top, bottom = 60.0, 790.0, 12.0, 230.0

var colors = []string{"#1f5fbf", "#c2571a", "#2c8a57"}

// newPlot scales lines to the area. Y begins at 0. An empty plot has no lines.
func newPlot(title, unit string, lines ...*line) plot {
	p := plot{Title: title}
	minX, maxX, maxY := math.Inf(1), math.Inf(-1), 0.0
	for _, l := range lines {
		for i := range l.x {
			minX, maxX, maxY = min(minX, l.x[i]), max(maxX, l.x[i]), max(maxY, l.y[i])
		}
	}
	if maxY == 0 || math.IsInf(minX, 0) {
		return p
	}
	if maxX == minX {
		maxX = minX + 1
	}
	step := niceStep(maxY / 4)
	maxY = math.Ceil(maxY/step) * step
	atX := func(x float64) float64 { return round(left + (x-minX)/(maxX-minX)*(right-left)) }
	atY := func(y float64) float64 { return round(bottom - y/maxY*(bottom-top)) }
	for y := 0.0; y <= maxY+step/2; y += step {
		p.Grid = append(p.Grid, mark{Y: atY(y), Label: fmt.Sprintf("%.4g", y)})
	}
	for i := range 6 {
		x := minX + (maxX-minX)*float64(i)/5
		p.Ticks = append(p.Ticks, mark{X: atX(x), Label: fmt.Sprintf("%.3g%s", x, unit)})
	}
	for n, l := range lines {
		var points strings.Builder
		for i := range l.x {
			fmt.Fprintf(&points, "%g,%g ", atX(l.x[i]), atY(l.y[i]))
		}
		l.Points, l.Color, l.KeyY = strings.TrimSpace(points.String()), colors[n%len(colors)], 24+14*n
		p.Lines = append(p.Lines, l)
	}
	return p
}

// niceStep is the next of 1, 2, 5 and their powers of ten.
func niceStep(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 5} {
		if x <= m*power {
			return m * power
		}
	}
	return 10 * power
}

// html writes the page.
func (p *Report) html(out io.Writer) error {
	type row struct {
		Name string
		P    Percentiles
	}
	rows := []row{{"all", p.Latency}}
	for _, name := range []string{"endorse", "submit", "commit"} {
		if s, there := p.Steps[name]; there {
			rows = append(rows, row{"step " + name, s})
		}
	}
	perSecond, p50, p99, tail := &line{Name: "successful a second"}, &line{Name: "p50"}, &line{Name: "p99"}, &line{Name: "latency"}
	for _, pt := range p.Points {
		for _, l := range []*line{perSecond, p50, p99} {
			l.x = append(l.x, pt.Seconds)
		}
		perSecond.y, p50.y, p99.y = append(perSecond.y, pt.Rate), append(p50.y, pt.P50), append(p99.y, pt.P99)
	}
	for q := 0; q <= 999 && p.Latency.Count > 0; q++ {
		tail.x, tail.y = append(tail.x, float64(q)/10), append(tail.y, ms(p.distribution.quantile(float64(q)/1000)))
	}
	return page.Execute(out, map[string]any{"Report": p, "Rows": rows, "Plots": []plot{
		newPlot("Successful work a second, over time", " s", perSecond),
		newPlot("Latency in ms, over time", " s", p50, p99),
		newPlot("Latency in ms that the given share did not exceed", " %", tail),
	}})
}
