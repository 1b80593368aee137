package seal

// TermOf is the term of the key that sealed a value, as the value says; nothing is
// opened. The start of a sealed value is enough.
func TermOf(sealed []byte) (uint32, error) {
	if len(sealed) > 0 {
		sealed = append(sealed[:len(sealed):len(sealed)], make([]byte, tagSize)...)
	}
	id, _, _, err := parse(sealed)
	return id, err
}
