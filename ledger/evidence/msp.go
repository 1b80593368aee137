package evidence

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// mspName is what may be a folder's name; Fabric allows no other in practice.
var mspName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// MSPFiles are the CA certificates and revocation lists of the organisations in a
// configuration block, as files below msp/, in the pack's order.
func MSPFiles(block *commonpb.Block) ([]File, error) {
	if len(block.GetData().GetData()) != 1 {
		return nil, fmt.Errorf("config.block has %d transactions, a configuration block has one", len(block.GetData().GetData()))
	}
	var envelope commonpb.Envelope
	var payload commonpb.Payload
	var config commonpb.ConfigEnvelope
	for _, step := range []struct {
		raw  func() []byte
		into proto.Message
	}{
		{func() []byte { return block.GetData().GetData()[0] }, &envelope},
		{envelope.GetPayload, &payload},
		{payload.GetData, &config},
	} {
		if err := proto.Unmarshal(step.raw(), step.into); err != nil {
			return nil, fmt.Errorf("config.block: %w", err)
		}
	}
	seen := map[string]bool{}
	var files []File
	var walk func(group *commonpb.ConfigGroup) error
	walk = func(group *commonpb.ConfigGroup) error {
		if value := group.GetValues()["MSP"]; value != nil {
			f, err := mspFiles(value.GetValue())
			if err != nil {
				return err
			}
			for _, file := range f {
				if !seen[file.Name] {
					seen[file.Name] = true
					files = append(files, file)
				}
			}
		}
		for _, sub := range group.GetGroups() {
			if err := walk(sub); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(config.GetConfig().GetChannelGroup()); err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return files, nil
}

func mspFiles(raw []byte) ([]File, error) {
	var outer msppb.MSPConfig
	if err := proto.Unmarshal(raw, &outer); err != nil {
		return nil, fmt.Errorf("config.block: MSP: %w", err)
	}
	if outer.GetType() != 0 {
		return nil, nil // not of X.509 certificates
	}
	var m msppb.FabricMSPConfig
	if err := proto.Unmarshal(outer.GetConfig(), &m); err != nil {
		return nil, fmt.Errorf("config.block: MSP: %w", err)
	}
	if !mspName.MatchString(m.GetName()) {
		return nil, fmt.Errorf("config.block: MSP %q cannot name a folder", m.GetName())
	}
	var files []File
	for _, part := range []struct {
		name string
		data [][]byte
	}{{"root", m.GetRootCerts()}, {"intermediate", m.GetIntermediateCerts()}, {"crl", m.GetRevocationList()}} {
		for i, data := range part.data {
			files = append(files, File{fmt.Sprintf("msp/%s/%s-%d.pem", m.GetName(), part.name, i), data})
		}
	}
	return files, nil
}
