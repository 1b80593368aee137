package pkcs11

/*
#cgo LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include "functions.h"

struct binding { // struct ctx of miekg/pkcs11 v1.1.2
	void *handle;
	struct functions *list;
};

// The library is loaded already: this finds that same one. It stays loaded. Some libraries
// make another instance of themselves for each call of C_GetFunctionList, as p11-kit's client
// does, so that the binding's own list is wanted; that it is where we think is known by the
// library's handle beside it.
static struct functions *find_functions(const char *path, const struct binding *b) {
	struct functions *list = NULL;
	void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (library == NULL)
		return NULL;
	if (b != NULL && b->handle == library && b->list != NULL)
		return b->list;
	unsigned long (*get)(struct functions **) = (unsigned long (*)(struct functions **))dlsym(library, "C_GetFunctionList");
	if (get == NULL || get(&list) != 0)
		return NULL;
	return list;
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"
)

// functions are the calls that are made without the binding: those that take a PIN, and
// those that a peer's rate hangs on.
type functions struct{ list *C.struct_functions }

// loadFunctions finds them in a library that the binding has loaded.
func loadFunctions(path string, ctx *p11.Ctx) (functions, error) {
	name, err := unix.ByteSliceFromString(path)
	if err != nil {
		return functions{}, err
	}
	binding := *(**C.struct_binding)(unsafe.Pointer(ctx)) // Ctx is one pointer to its C struct
	list := C.find_functions((*C.char)(unsafe.Pointer(&name[0])), binding)
	if list == nil {
		return functions{}, fmt.Errorf("module %q has no C_GetFunctionList", path)
	}
	return functions{list}, nil
}
