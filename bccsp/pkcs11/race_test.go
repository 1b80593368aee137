//go:build race

package pkcs11_test

// raceEnabled: the race detector allocates, and empties pools at random.
const raceEnabled = true
