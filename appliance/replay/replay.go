// Package replay validates and commits a folder of blocks on a scratch ledger, as a
// peer does, and times it against the token's own rate, measured in the same run.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	"strongroom/channel"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/provenance"
	"strongroom/ledger/seal"
	"strongroom/policy"
	"strongroom/wire/commonpb"
)

// Config is what Run needs.
type Config struct {
	Token  *pkcs11.Token // with a wrapping key: the scratch ledger is sealed
	Blocks string        // folder of block-NNNNNN.pb from the genesis block on, or a .tar or .tar.zst of one
	Dir    string        // an empty folder for the scratch ledger; the caller removes it
	// Signer signs the provenance of each block; nil leaves provenance out.
	Signer *bccsp.Signer
	// Turn is how many transactions are replayed between two measurements of the
	// token; 0 means 9,000. Turns let the machine's drift meet both alike.
	Turn int
	// Baseline is how long one measurement of the bare module, and one of the pool,
	// lasts; 0 means 300 ms, negative none.
	Baseline time.Duration
	Callers  int // of the measurements; 0 means pkcs11.DefaultSessions
	Logger   *slog.Logger
	// Progress is told after each turn what was replayed so far. It may be nil.
	Progress func(blocks, transactions int, elapsed time.Duration)
}

func (c *Config) validate() error {
	switch {
	case c.Token == nil:
		return errors.New("replay: Config.Token is nil: open the token")
	case c.Blocks == "":
		return errors.New("replay: Config.Blocks is empty: name a folder or an archive of blocks")
	case c.Dir == "":
		return errors.New("replay: Config.Dir is empty: name an empty folder")
	case c.Turn < 0 || c.Callers < 0:
		return errors.New("replay: Config.Turn and Config.Callers cannot be negative")
	}
	if c.Turn == 0 {
		c.Turn = 9000
	}
	if c.Baseline == 0 {
		c.Baseline = 300 * time.Millisecond
	}
	if c.Callers == 0 {
		c.Callers = pkcs11.DefaultSessions
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(int, int, time.Duration) {}
	}
	return nil
}

// Run replays the blocks. Differences from what the blocks record are in the report;
// the error is of what could not be done.
func Run(ctx context.Context, c Config) (_ *Report, err error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	r := &run{cfg: c, meter: &meter{token: c.Token}, report: &Report{Stages: map[string]*Stage{}, LoadBefore: machineLoad()}}
	if err := r.open(ctx, files[0]); err != nil {
		return nil, errors.Join(err, r.close())
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for files = files[1:]; len(files) > 0; {
		taken, err := r.turn(ctx, files)
		if err != nil {
			return nil, err
		}
		files = files[taken:]
		if err := r.baseline(ctx); err != nil {
			return nil, err
		}
		c.Progress(r.report.Blocks, r.report.Transactions, r.elapsed)
	}
	return r.finish()
}

// files are the block files, unpacked where that is needed.
func (c *Config) files() ([]string, error) {
	info, err := os.Stat(c.Blocks)
	if err != nil {
		return nil, fmt.Errorf("blocks: %w", err)
	}
	if info.IsDir() {
		return Files(c.Blocks)
	}
	folder := filepath.Join(c.Dir, "blocks")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, fmt.Errorf("blocks: %w", err)
	}
	if err := Unpack(c.Blocks, folder); err != nil {
		return nil, err
	}
	return Files(folder)
}

// run is one replay.
type run struct {
	cfg      Config
	meter    *meter
	report   *Report
	keyring  *seal.Keyring
	ledger   *ledger.Ledger
	recorder *provenance.Recorder
	channel  *channel.Channel

	elapsed            time.Duration // in Channel.Replay
	checks             uint64        // in that time
	bare, pool         uint64        // checks of the baselines
	bareTime, poolTime time.Duration

	mu sync.Mutex // guards report.Stages
}

// open makes the scratch ledger of a genesis block.
func (r *run) open(ctx context.Context, genesisFile string) error {
	genesis, err := readBlock(genesisFile)
	if err != nil {
		return err
	}
	if genesis.GetHeader().GetNumber() != 0 {
		return fmt.Errorf("blocks: the first, %s, is block %d: the folder must begin with block 0", genesisFile, genesis.GetHeader().GetNumber())
	}
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		return err
	}
	deps := configtx.Deps{Verifier: r.meter, Engine: engine}
	config, err := configtx.FromBlock(ctx, deps, genesis)
	if err != nil {
		return fmt.Errorf("genesis block: %w", err)
	}
	r.report.Channel = config.ID
	if r.keyring, err = seal.OpenKeyring(ctx, filepath.Join(r.cfg.Dir, "keyring"), r.cfg.Token); err != nil {
		return err
	}
	if r.ledger, err = ledger.Open(ctx, ledger.Config{
		Dir: filepath.Join(r.cfg.Dir, "ledger"), ChannelID: config.ID, Keyring: r.keyring, Logger: r.cfg.Logger,
		Observe: func(stage string, took time.Duration) { r.stage("commit: "+stage, took) },
	}); err != nil {
		return err
	}
	if err := channel.Join(ctx, r.ledger, deps, genesis); err != nil {
		return err
	}
	channelConfig := channel.Config{Ledger: r.ledger, Deps: deps, Logger: r.cfg.Logger,
		Observe: func(stage channel.Stage, _ uint64, _ int, d time.Duration) { r.stage(string(stage), d) },
	}
	if r.cfg.Signer != nil {
		if r.recorder, err = provenance.Open(provenance.Config{
			Dir: filepath.Join(r.cfg.Dir, "provenance"), Channel: config.ID, Signer: r.cfg.Signer,
			Peer: provenance.Peer{OPAVersion: policy.OPAVersion, Software: provenance.Software{Name: "strongroom ledger replay"}},
		}); err != nil {
			return err
		}
		channelConfig.Recorder = recorder{r.recorder}
		r.report.Provenance = true
	}
	r.channel, err = channel.Open(ctx, channelConfig)
	return err
}

// turn replays the next blocks and returns how many files it took.
func (r *run) turn(ctx context.Context, files []string) (taken int, err error) {
	transactions := 0
	blocks := turn(files, r.cfg.Turn, &taken, func(b *commonpb.Block) { transactions += len(b.GetData().GetData()) })
	before, began := r.meter.checks.Load(), time.Now()
	if err := r.channel.Replay(ctx, blocks, r.report.differ); err != nil {
		return taken, err
	}
	r.elapsed += time.Since(began)
	r.checks += r.meter.checks.Load() - before
	r.report.Blocks += taken
	r.report.Transactions += transactions
	return taken, nil
}

// baseline measures the token: the bare module, then the pool.
func (r *run) baseline(ctx context.Context) error {
	s := r.meter.good()
	if r.cfg.Baseline < 0 || s == nil {
		return nil
	}
	n, took, err := r.cfg.Token.BareVerifyRate(ctx, s.key, s.digest, s.sig, r.cfg.Callers, r.cfg.Baseline)
	if err != nil {
		return fmt.Errorf("measuring the bare module: %w", err)
	}
	r.bare, r.bareTime = r.bare+n, r.bareTime+took
	if n, took, err = r.meter.poolRate(ctx, s, r.cfg.Callers, r.cfg.Baseline); err != nil {
		return fmt.Errorf("measuring the session pool: %w", err)
	}
	r.pool, r.poolTime = r.pool+n, r.poolTime+took
	return nil
}

func (r *run) stage(name string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.report.Stages[name]
	if s == nil {
		s = &Stage{}
		r.report.Stages[name] = s
	}
	s.add(took)
}

// finish works out the rates.
func (r *run) finish() (*Report, error) {
	p := r.report
	p.Seconds = r.elapsed.Seconds()
	p.Checks = r.checks
	p.TransactionsPerSecond = rate(uint64(p.Transactions), r.elapsed)
	p.ChecksPerSecond = rate(p.Checks, r.elapsed)
	p.BareChecksPerSecond, p.PoolChecksPerSecond = rate(r.bare, r.bareTime), rate(r.pool, r.poolTime)
	if p.BareChecksPerSecond > 0 {
		p.OfBareRate = p.ChecksPerSecond / p.BareChecksPerSecond
	}
	p.PeakMemoryBytes, p.LoadAfter = peakMemory(), machineLoad()
	var err error
	if p.DiskBytes, err = size(filepath.Join(r.cfg.Dir, "ledger")); err != nil {
		return nil, err
	}
	return p, nil
}

func rate(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return math.Round(float64(n)/d.Seconds()*10) / 10
}

// size is the sum of the sizes of a folder's files.
func size(folder string) (total int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

func (r *run) close() error {
	var errs []error
	if r.channel != nil {
		r.channel.Close()
	}
	if r.recorder != nil {
		errs = append(errs, r.recorder.Close())
	}
	if r.ledger != nil {
		errs = append(errs, r.ledger.Close())
	}
	if r.keyring != nil {
		errs = append(errs, r.keyring.Close())
	}
	return errors.Join(errs...)
}
