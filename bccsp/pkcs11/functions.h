// The part of PKCS #11 v2.40 that is called without the binding.
#include <stddef.h>

// CK_FUNCTION_LIST: CK_VERSION, then a pointer for each function, in the order of the
// standard's header pkcs11f.h.
struct functions {
	unsigned char version[2];
	void *at[68];
};

enum {
	at_init_token = 9, at_init_pin = 10, at_set_pin = 11, at_login = 18,
	at_sign_init = 42, at_sign = 43, at_verify_init = 48, at_verify = 49
};
