package faulty_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"strongroom/bccsp/pkcs11"
	"strongroom/softhsm-tests/faulty"
)

// hot are the functions that operations call, cold those that recovery calls.
var (
	hot = []string{"C_SignInit", "C_Sign", "C_VerifyInit", "C_Verify", "C_CreateObject", "C_DestroyObject",
		"C_WrapKey", "C_UnwrapKey", "C_GetAttributeValue", "C_GenerateRandom"}
	cold = []string{"C_Initialize", "C_Finalize", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_CloseSession",
		"C_GetSessionInfo", "C_Login", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal"}
)

type fault struct {
	name   string
	action faulty.Action
	arg    uint64
}

var faults = []fault{
	{"CKR_SESSION_HANDLE_INVALID", faulty.Return, 0xB3},
	{"CKR_OPERATION_NOT_INITIALIZED", faulty.Return, 0x91},
	{"CKR_OBJECT_HANDLE_INVALID", faulty.Return, 0x82},
	{"CKR_USER_NOT_LOGGED_IN", faulty.Return, 0x101},
	{"CKR_DEVICE_ERROR", faulty.Return, 0x30},
	{"CKR_DEVICE_REMOVED", faulty.Return, 0x32},
	{"CKR_CRYPTOKI_NOT_INITIALIZED", faulty.Return, 0x190},
	{"CKR_GENERAL_ERROR", faulty.Return, 0x5},
	{"CKR_FUNCTION_FAILED", faulty.Return, 0x6},
	{"CKR_DEVICE_MEMORY", faulty.Return, 0x31},
	{"a vendor's code", faulty.Return, 0x80000123},
	{"all ones", faulty.Return, math.MaxUint64},
	{"slow", faulty.Sleep, 30},
	{"hang", faulty.Hang, 0},
	{"sessions dropped", faulty.Drop, 0},
	{"logged out", faulty.Logout, 0},
	{"objects renumbered", faulty.Renumber, 0},
	{"token lost", faulty.Lose, 100},
}

// back is how soon after a fault everything must work again.
const back = 5 * time.Second

// TestFaultTable walks every function that is used, in operation and in recovery, × every
// fault, while four callers sign, verify, wrap and unwrap. No signature may be false and
// no verdict change; an operation may fail with an error of the device, and all must work
// again in seconds, in the same process.
func TestFaultTable(t *testing.T) {
	b := newBench(t, func(c *pkcs11.Config) { c.CallTimeout = 500 * time.Millisecond })
	var cases, unseen, clean, failing, stopped int
	var slowest time.Duration
	one := func(function string, f fault, rules ...faulty.Rule) {
		cases++
		ok := t.Run(fmt.Sprintf("%s/%s", function, f.name), func(t *testing.T) {
			set(t, module, rules...)
			released := make(chan struct{})
			go func() { // what hangs goes on, while callers are waiting
				defer close(released)
				if f.action == faulty.Hang {
					time.Sleep(700 * time.Millisecond)
					if err := module.Set(); err != nil {
						t.Error(err)
					}
				}
			}()
			began := time.Now()
			failed := b.rounds(t, 4, 3, 3*time.Second)
			<-released
			if fired, err := module.Fired(); err != nil {
				t.Fatal(err)
			} else if fired[function] == 0 && f.action != faulty.Sleep && f.action != faulty.Hang {
				unseen++
				t.Errorf("%s met no fault", function)
			}
			set(t, module)
			if errors.Is(b.token.Down(), pkcs11.ErrStopped) {
				stopped++
				if function != "C_Login" || f.arg != 0x6 {
					t.Errorf("stopped: %v", b.token.Down())
				}
				if err := b.token.Close(); err != nil {
					t.Fatal(err)
				}
				b.open(t)
			} else if len(failed) == 0 {
				clean++
			} else {
				failing++
			}
			b.serves(t, back)
			slowest = max(slowest, time.Since(began))
		})
		if !ok {
			t.FailNow()
		}
	}
	for _, f := range faults {
		for _, function := range hot {
			one(function, f, faulty.Rule{Function: function, From: 2, Count: 2, Action: f.action, Arg: f.arg})
		}
		for _, function := range cold { // two faults: one that calls for recovery, one that meets it
			one(function, f,
				faulty.Rule{Function: "C_VerifyInit", From: 3, Count: 1, Action: faulty.Return, Arg: 0x30},
				faulty.Rule{Function: function, From: 1, Count: 1, Action: f.action, Arg: f.arg})
		}
	}
	t.Logf("%d functions × %d faults = %d cases: in %d every operation succeeded, in %d some failed with the device's error, in %d the token stopped as it must; slowest case, with its 60 operations, %s",
		len(hot)+len(cold), len(faults), cases, clean, failing, stopped, slowest.Round(time.Millisecond))
}
