package operations

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the node's measurements. Their names are part of what operators
// build on: docs/operator.md lists them.
type Metrics struct {
	Registry *prometheus.Registry

	hsm       *prometheus.HistogramVec
	hsmErrors *prometheus.CounterVec
	hsmWait   prometheus.Histogram
	tokenUp   *prometheus.GaugeVec
	alarms    *prometheus.CounterVec
	stage     *prometheus.HistogramVec
	height    *prometheus.GaugeVec
	decisions *prometheus.CounterVec
	decide    prometheus.Histogram
	proposals *prometheus.HistogramVec
	broadcast *prometheus.CounterVec
	bundles   *prometheus.CounterVec
	revision  prometheus.Gauge
	audit     *prometheus.CounterVec
	notAfter  *prometheus.GaugeVec
}

// NewMetrics makes a registry with the node's and the Go runtime's measurements.
func NewMetrics() *Metrics {
	fast := prometheus.ExponentialBuckets(0.00002, 2.5, 14) // 20 µs to 3 s
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		hsm: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strongroom_hsm_operation_seconds", Help: "HSM operations by kind, without the wait for a session.", Buckets: fast}, []string{"operation"}),
		hsmErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strongroom_hsm_errors_total", Help: "HSM operations that failed, by kind. A false signature is no failure."}, []string{"operation"}),
		hsmWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "strongroom_hsm_session_wait_seconds", Help: "Wait for a free session of the pool.", Buckets: fast}),
		tokenUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "strongroom_hsm_up", Help: "1 while a token serves, 0 while it is down or stopped."}, []string{"token"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strongroom_hsm_alarms_total", Help: "Alarms of a token by event: down, up, stopped, failed, hung."}, []string{"token", "event"}),
		stage: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strongroom_commit_stage_seconds", Help: "Stages of validation and commit of a block.", Buckets: fast}, []string{"channel", "stage"}),
		height: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "strongroom_ledger_height", Help: "Blocks in the channel's ledger."}, []string{"channel"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strongroom_decisions_total", Help: "Access decisions by resource, layer that decided, and outcome."}, []string{"resource", "layer", "outcome"}),
		decide: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "strongroom_decision_seconds", Help: "Time of an access decision.", Buckets: prometheus.ExponentialBuckets(0.0000002, 4, 12)}),
		proposals: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strongroom_proposal_seconds", Help: "Proposals by outcome.", Buckets: fast}, []string{"outcome"}),
		broadcast: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strongroom_ordering_messages_total", Help: "Messages to the ordering service by channel and status."}, []string{"channel", "status"}),
		bundles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strongroom_policy_bundles_total", Help: "Policy bundles that were looked at: taken or refused."}, []string{"result"}),
		audit: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "strongroom_audit_records_total", Help: "Records of the audit log by kind; dropped are decisions without a record."}, []string{"kind"}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "strongroom_policy_bundle_revision", Help: "Revision of the policy bundle in force; 0 without one."}),
		notAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "strongroom_certificate_not_after_seconds", Help: "When a certificate of this node ends, in Unix time."}, []string{"certificate"}),
	}
	m.Registry.MustRegister(m.hsm, m.hsmErrors, m.hsmWait, m.tokenUp, m.alarms, m.stage, m.height, m.decisions, m.decide, m.proposals, m.broadcast, m.bundles, m.revision, m.audit, m.notAfter,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// TokenUp records whether a token serves.
func (m *Metrics) TokenUp(token string, up bool) {
	value := 0.0
	if up {
		value = 1
	}
	m.tokenUp.WithLabelValues(token).Set(value)
}

// TokenAlarm counts an alarm of a token.
func (m *Metrics) TokenAlarm(token, event string) { m.alarms.WithLabelValues(token, event).Inc() }

// HSM records one operation of a token; a false signature is none that failed.
func (m *Metrics) HSM(operation string, d time.Duration, err error) {
	m.hsm.WithLabelValues(operation).Observe(d.Seconds())
	if err != nil {
		m.hsmErrors.WithLabelValues(operation).Inc()
	}
}

// HSMWait records the wait for a session.
func (m *Metrics) HSMWait(d time.Duration) { m.hsmWait.Observe(d.Seconds()) }

// Stage records one stage of a block's way into the ledger.
func (m *Metrics) Stage(channel, stage string, d time.Duration) {
	m.stage.WithLabelValues(channel, stage).Observe(d.Seconds())
}

// Height records a channel's height.
func (m *Metrics) Height(channel string, height uint64) {
	m.height.WithLabelValues(channel).Set(float64(height))
}

// Decision records an access decision.
func (m *Metrics) Decision(resource, layer string, allowed bool, d time.Duration) {
	outcome := "denied"
	if allowed {
		outcome = "allowed"
	}
	m.decisions.WithLabelValues(resource, layer, outcome).Inc()
	m.decide.Observe(d.Seconds())
}

// Proposal records a proposal's time and outcome.
func (m *Metrics) Proposal(outcome string, d time.Duration) {
	m.proposals.WithLabelValues(outcome).Observe(d.Seconds())
}

// Broadcast records a message to the ordering service.
func (m *Metrics) Broadcast(channel, status string) {
	m.broadcast.WithLabelValues(channel, status).Inc()
}

// Bundle records a policy bundle that was looked at, and the revision in force.
func (m *Metrics) Bundle(result string, revision uint64) {
	m.bundles.WithLabelValues(result).Inc()
	m.revision.Set(float64(revision))
}

// NotAfter records when a certificate of this node ends.
func (m *Metrics) NotAfter(certificate string, end time.Time) {
	m.notAfter.WithLabelValues(certificate).Set(float64(end.Unix()))
}

// Audit records records of the audit log, or decisions that were dropped.
func (m *Metrics) Audit(kind string, n int) { m.audit.WithLabelValues(kind).Add(float64(n)) }
