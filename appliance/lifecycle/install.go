package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/endorser"
	"strongroom/appliance/rpcerr"
	"strongroom/chaincode/ccpackage"
	state "strongroom/channel/lifecycle"
	"strongroom/wire/lifecyclepb"
)

// Services is told where the services of installed chaincodes are. The chaincode
// host is one. Telling it the same twice must change nothing.
type Services interface {
	AddService(packageID string, c ccpackage.Connection) error
}

// Installed is an installed chaincode package.
type Installed struct {
	PackageID string
	Label     string
}

// start parses a stored package and names its service to the host.
func (s *Service) start(ctx context.Context, id string) error {
	data, err := s.cfg.Packages.Load(ctx, id)
	if err != nil {
		return err
	}
	p, err := ccpackage.Parse(data)
	if err != nil {
		return err
	}
	if p.ID != id {
		return fmt.Errorf("the store holds package %q under this id", p.ID)
	}
	return s.add(p)
}

func (s *Service) add(p *ccpackage.Package) error {
	if err := s.cfg.Services.AddService(p.ID, p.Connection); err != nil {
		return fmt.Errorf("chaincode service of %q: %w", p.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.installed[p.ID] = Installed{PackageID: p.ID, Label: p.Label}
	s.indexes[p.ID] = s.definitions(p)
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *Service) install(ctx context.Context, _ *endorser.Call, args *lifecyclepb.InstallChaincodeArgs) (proto.Message, error) {
	p, err := ccpackage.Parse(args.GetChaincodeInstallPackage())
	if err != nil {
		return nil, fmt.Errorf("could not parse as a chaincode install package: %w", err)
	}
	if _, _, err := p.Indexes(); err != nil {
		return nil, fmt.Errorf("could not parse as a chaincode install package: %w", err)
	}
	s.installing.Lock()
	defer s.installing.Unlock()
	s.mu.Lock()
	_, there := s.installed[p.ID]
	s.mu.Unlock()
	if there {
		return nil, fmt.Errorf("chaincode already successfully installed (package ID '%s')", p.ID)
	}
	if err := s.cfg.Packages.Save(ctx, p.ID, args.GetChaincodeInstallPackage()); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "cannot keep a chaincode package", "package", p.ID, "error", err)
		return nil, errors.New("could not save cc install package: the peer's log says why")
	}
	if err := s.add(p); err != nil {
		return nil, err
	}
	s.cfg.Logger.InfoContext(ctx, "installed a chaincode package", "package", p.ID)
	return &lifecyclepb.InstallChaincodeResult{PackageId: p.ID, Label: p.Label}, nil
}

func (s *Service) getPackage(ctx context.Context, _ *endorser.Call, args *lifecyclepb.GetInstalledChaincodePackageArgs) (proto.Message, error) {
	data, err := s.cfg.Packages.Load(ctx, args.GetPackageId())
	if errors.Is(err, rpcerr.ErrNotFound) {
		return nil, err
	}
	if err != nil {
		s.cfg.Logger.ErrorContext(ctx, "cannot read a chaincode package", "package", args.GetPackageId(), "error", err)
		return nil, errors.New("could not load cc install package: the peer's log says why")
	}
	return &lifecyclepb.GetInstalledChaincodePackageResult{ChaincodeInstallPackage: data}, nil
}

// reference is a committed definition that runs an installed package.
type reference struct{ name, version string }

// references finds, by channel, what runs each package: definitions that are
// committed and that this organisation approved with that package.
func (s *Service) references() (map[string]map[string][]reference, error) {
	out := make(map[string]map[string][]reference)
	for _, id := range s.cfg.Channels() {
		ch, ok := s.cfg.Channel(id)
		if !ok {
			continue // left since
		}
		snap, err := ch.Ledger().Snapshot()
		if err != nil {
			return nil, fmt.Errorf("state of channel %q: %w", id, err)
		}
		names, err := state.Names(ranger{snap.Range})
		snap.Release()
		if err != nil {
			return nil, fmt.Errorf("definitions of channel %q: %w", id, err)
		}
		for _, name := range names {
			e, err := s.entry(id, name)
			if err != nil {
				return nil, err
			}
			if !e.approved || e.packageID == "" {
				continue
			}
			if out[e.packageID] == nil {
				out[e.packageID] = make(map[string][]reference)
			}
			out[e.packageID][id] = append(out[e.packageID][id], reference{name, e.definition.Version})
		}
	}
	return out, nil
}

func (s *Service) queryInstalled(_ context.Context, _ *endorser.Call, args *lifecyclepb.QueryInstalledChaincodeArgs) (proto.Message, error) {
	s.mu.Lock()
	in, ok := s.installed[args.GetPackageId()]
	s.mu.Unlock()
	if !ok {
		return nil, notFound("could not find chaincode with package id '%s'", args.GetPackageId())
	}
	refs, err := s.references()
	if err != nil {
		return nil, err
	}
	out := &lifecyclepb.QueryInstalledChaincodeResult{PackageId: in.PackageID, Label: in.Label, References: map[string]*lifecyclepb.QueryInstalledChaincodeResult_References{}}
	for channel, list := range refs[in.PackageID] {
		r := &lifecyclepb.QueryInstalledChaincodeResult_References{}
		for _, ref := range list {
			r.Chaincodes = append(r.Chaincodes, &lifecyclepb.QueryInstalledChaincodeResult_Chaincode{Name: ref.name, Version: ref.version})
		}
		out.References[channel] = r
	}
	return out, nil
}

func (s *Service) queryAllInstalled(context.Context, *endorser.Call, *lifecyclepb.QueryInstalledChaincodesArgs) (proto.Message, error) {
	s.mu.Lock()
	installed := slices.SortedFunc(maps.Values(s.installed), func(a, b Installed) int {
		if a.PackageID < b.PackageID {
			return -1
		}
		return 1
	})
	s.mu.Unlock()
	refs, err := s.references()
	if err != nil {
		return nil, err
	}
	out := &lifecyclepb.QueryInstalledChaincodesResult{}
	for _, in := range installed {
		item := &lifecyclepb.QueryInstalledChaincodesResult_InstalledChaincode{PackageId: in.PackageID, Label: in.Label, References: map[string]*lifecyclepb.QueryInstalledChaincodesResult_References{}}
		for channel, list := range refs[in.PackageID] {
			r := &lifecyclepb.QueryInstalledChaincodesResult_References{}
			for _, ref := range list {
				r.Chaincodes = append(r.Chaincodes, &lifecyclepb.QueryInstalledChaincodesResult_Chaincode{Name: ref.name, Version: ref.version})
			}
			item.References[channel] = r
		}
		out.InstalledChaincodes = append(out.InstalledChaincodes, item)
	}
	return out, nil
}
