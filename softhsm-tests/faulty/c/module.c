/*
 * A PKCS #11 module that passes every call on to another one, and errs as its control
 * file says. It is for tests only: see module.go.
 *
 * Only what is needed of the ABI of PKCS #11 v2.40 is declared here: all functions
 * return an unsigned long and take unsigned longs, bytes and pointers; the function
 * list is a version, two bytes, followed by 68 pointers (base specification, 5.4 on).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long U;
typedef unsigned char *P;
typedef struct { unsigned char major, minor; void *fn[68]; } list;

enum {
	OK = 0, GENERAL = 0x5, DEVICE_ERROR = 0x30,
	INITIALIZE = 0, FINALIZE = 1, GETFUNCTIONLIST = 3, GETSLOTLIST = 4, CLOSEALL = 14, SIGN = 43,
};

static const char *names[68] = {
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo",
	"C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN",
	"C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState",
	"C_SetOperationState", "C_Login", "C_Logout", "C_CreateObject", "C_CopyObject", "C_DestroyObject",
	"C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects",
	"C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal", "C_DecryptInit",
	"C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey",
	"C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit", "C_SignRecover",
	"C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit", "C_VerifyRecover",
	"C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate",
	"C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_SeedRandom",
	"C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
};

enum action { RETURN, SLEEP, HANG, DROP, LOGOUT, RENUMBER, LOSE, CORRUPT, ACTIONS };
static const char *actions[ACTIONS] = { "return", "sleep", "hang", "drop", "logout", "renumber", "lose", "corrupt" };

struct rule { int fn; U from, count, seen, arg; enum action action; };

static list real, own;
static char control[4096], fired[4200];
/* Real modules fall over when sessions are closed under calls in progress: calls share
 * inside, and what closes sessions or logs out has it alone. */
static pthread_rwlock_t inside = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static struct rule rules[64];
static int rule_count;
static struct stat known;
static U offset;           /* added to the real numbers of objects */
static int lost;           /* until C_Initialize, and not before lost_until */
static struct timespec lost_until;

static void nap(U ms) {
	struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };
	nanosleep(&t, NULL);
}

static int same(const struct stat *a, const struct stat *b) {
	return a->st_ino == b->st_ino && a->st_size == b->st_size &&
		a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* load reads the control file when it has changed. The caller holds lock. */
static void load(void) {
	struct stat now;
	if (stat(control, &now) != 0 || same(&now, &known)) return;
	known = now;
	rule_count = 0;
	FILE *f = fopen(control, "r");
	if (!f) return;
	char fn[64], action[32];
	struct rule r;
	memset(&r, 0, sizeof r);
	while (rule_count < 64 && fscanf(f, "%63s %lu %lu %31s %lx", fn, &r.from, &r.count, action, &r.arg) == 5) {
		r.fn = -1;
		for (int i = 0; i < 68; i++) if (!strcmp(fn, names[i])) r.fn = i;
		for (int i = 0; i < ACTIONS; i++) if (!strcmp(action, actions[i])) r.action = (enum action)i;
		if (r.fn >= 0 || !strcmp(fn, "*")) rules[rule_count++] = r;
	}
	fclose(f);
}

static void note(int fn, enum action a) {
	int f = open(fired, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (f < 0) return;
	dprintf(f, "%s %s\n", names[fn], actions[a]);
	close(f);
}

static void drop_sessions(void) {
	U slots[64], n = 64;
	if (((U (*)(unsigned char, U *, U *))real.fn[GETSLOTLIST])(1, slots, &n) != OK) return;
	for (U i = 0; i < n; i++) ((U (*)(U))real.fn[CLOSEALL])(slots[i]);
}

static int is_lost(int fn) {
	if (!lost) return 0;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int over = now.tv_sec > lost_until.tv_sec || (now.tv_sec == lost_until.tv_sec && now.tv_nsec >= lost_until.tv_nsec);
	if (over && fn == INITIALIZE) lost = 0;
	return lost && fn != INITIALIZE && fn != FINALIZE && fn != GETSLOTLIST;
}

/* fault does what a rule wants before the call. It tells 1 when *rv answers the call, 2
 * when the answer is to be corrupted, 3 when the token is gone, otherwise 0. */
static int fault(int fn, U session, U *rv) {
	struct rule hit = { 0 };
	int found = 0;
	pthread_mutex_lock(&lock);
	load();
	for (int i = 0; i < rule_count && !found; i++) {
		struct rule *r = &rules[i];
		if (r->fn >= 0 && r->fn != fn) continue;
		r->seen++;
		if (r->seen < r->from || (r->count && r->seen >= r->from + r->count)) continue;
		hit = *r;
		found = 1;
	}
	struct stat then = known;
	if (found && hit.action == LOSE) {
		lost = 1;
		clock_gettime(CLOCK_MONOTONIC, &lost_until);
		lost_until.tv_sec += (time_t)(hit.arg / 1000);
		lost_until.tv_nsec += (long)(hit.arg % 1000) * 1000000;
		if (lost_until.tv_nsec >= 1000000000) { lost_until.tv_sec++; lost_until.tv_nsec -= 1000000000; }
	}
	int gone = is_lost(fn), still_lost = lost;
	pthread_mutex_unlock(&lock);
	if (found && hit.action != SLEEP) note(fn, hit.action);
	if (gone) { *rv = DEVICE_ERROR; return 1; }
	if (still_lost && fn == GETSLOTLIST) return 3;
	if (!found) return 0;
	switch (hit.action) {
	case RETURN: *rv = hit.arg; return 1;
	case SLEEP: nap(hit.arg); return 0;
	case HANG:
		for (struct stat now; stat(control, &now) == 0 && same(&now, &then);) nap(2);
		return 0;
	case DROP: case RENUMBER: case LOGOUT:
		pthread_rwlock_wrlock(&inside);
		if (hit.action == LOGOUT) ((U (*)(U))real.fn[19])(session);
		else drop_sessions();
		if (hit.action == RENUMBER) __atomic_add_fetch(&offset, 1, __ATOMIC_SEQ_CST);
		pthread_rwlock_unlock(&inside);
		return 0;
	case CORRUPT: return 2;
	default: return 0;
	}
}

/* pass calls the real module, in company with others. */
#define PASS(rv, call) do { \
		pthread_rwlock_rdlock(&inside); \
		rv = call; \
		pthread_rwlock_unlock(&inside); \
	} while (0)

static U shown(U o) { return o ? o + __atomic_load_n(&offset, __ATOMIC_SEQ_CST) : o; }
static U hidden(U o) { return o - __atomic_load_n(&offset, __ATOMIC_SEQ_CST); }

#define FN(name, index, params, session, types, args) \
	static U name params { \
		U rv; \
		if (fault(index, session, &rv) == 1) return rv; \
		PASS(rv, ((U (*) types)real.fn[index]) args); \
		return rv; \
	}

FN(c_initialize, 0, (void *a), 0, (void *), (a))
FN(c_finalize, 1, (void *a), 0, (void *), (a))
FN(c_get_info, 2, (void *a), 0, (void *), (a))
FN(c_get_token_info, 6, (U slot, void *i), 0, (U, void *), (slot, i))
FN(c_open_session, 12, (U slot, U f, void *a, void *n, U *s), 0, (U, U, void *, void *, U *), (slot, f, a, n, s))
FN(c_close_session, 13, (U s), s, (U), (s))
FN(c_get_session_info, 15, (U s, void *i), s, (U, void *), (s, i))
FN(c_login, 18, (U s, U u, P p, U n), s, (U, U, P, U), (s, u, p, n))
FN(c_logout, 19, (U s), s, (U), (s))
FN(c_destroy, 22, (U s, U o), s, (U, U), (s, hidden(o)))
FN(c_get_attribute, 24, (U s, U o, void *t, U n), s, (U, U, void *, U), (s, hidden(o), t, n))
FN(c_set_attribute, 25, (U s, U o, void *t, U n), s, (U, U, void *, U), (s, hidden(o), t, n))
FN(c_find_init, 26, (U s, void *t, U n), s, (U, void *, U), (s, t, n))
FN(c_find_final, 28, (U s), s, (U), (s))
FN(c_sign_init, 42, (U s, void *m, U k), s, (U, void *, U), (s, m, hidden(k)))
FN(c_verify_init, 48, (U s, void *m, U k), s, (U, void *, U), (s, m, hidden(k)))
FN(c_verify, 49, (U s, P d, U n, P g, U l), s, (U, P, U, P, U), (s, d, n, g, l))
FN(c_random, 64, (U s, P d, U n), s, (U, P, U), (s, d, n))
FN(c_wrap, 60, (U s, void *m, U w, U k, P d, U *n), s, (U, void *, U, U, P, U *), (s, m, hidden(w), hidden(k), d, n))

static U c_get_slot_list(unsigned char present, U *slots, U *n) {
	U rv;
	switch (fault(GETSLOTLIST, 0, &rv)) {
	case 1: return rv;
	case 3: *n = 0; return OK;
	}
	PASS(rv, ((U (*)(unsigned char, U *, U *))real.fn[GETSLOTLIST])(present, slots, n));
	return rv;
}

static U c_sign(U s, P d, U n, P sig, U *len) {
	U rv;
	int f = fault(SIGN, s, &rv);
	if (f == 1) return rv;
	PASS(rv, ((U (*)(U, P, U, P, U *))real.fn[SIGN])(s, d, n, sig, len));
	if (f == 2 && rv == OK && sig && *len) sig[*len - 1] ^= 1;
	return rv;
}

static U c_create(U s, void *t, U n, U *o) {
	U rv;
	if (fault(20, s, &rv) == 1) return rv;
	PASS(rv, ((U (*)(U, void *, U, U *))real.fn[20])(s, t, n, o));
	if (rv == OK) *o = shown(*o);
	return rv;
}

static U c_find(U s, U *o, U max, U *n) {
	U rv;
	if (fault(27, s, &rv) == 1) return rv;
	PASS(rv, ((U (*)(U, U *, U, U *))real.fn[27])(s, o, max, n));
	if (rv == OK) for (U i = 0; i < *n; i++) o[i] = shown(o[i]);
	return rv;
}

static U c_generate_key(U s, void *m, void *t, U n, U *o) {
	U rv;
	if (fault(58, s, &rv) == 1) return rv;
	PASS(rv, ((U (*)(U, void *, void *, U, U *))real.fn[58])(s, m, t, n, o));
	if (rv == OK) *o = shown(*o);
	return rv;
}

static U c_generate_pair(U s, void *m, void *t, U n, void *t2, U n2, U *o, U *o2) {
	U rv;
	if (fault(59, s, &rv) == 1) return rv;
	PASS(rv, ((U (*)(U, void *, void *, U, void *, U, U *, U *))real.fn[59])(s, m, t, n, t2, n2, o, o2));
	if (rv == OK) { *o = shown(*o); *o2 = shown(*o2); }
	return rv;
}

static U c_unwrap(U s, void *m, U w, P d, U l, void *t, U n, U *o) {
	U rv;
	if (fault(61, s, &rv) == 1) return rv;
	PASS(rv, ((U (*)(U, void *, U, P, U, void *, U, U *))real.fn[61])(s, m, hidden(w), d, l, t, n, o));
	if (rv == OK) *o = shown(*o);
	return rv;
}

static const struct { int at; void *fn; } mine[] = {
	{ 0, c_initialize }, { 1, c_finalize }, { 2, c_get_info }, { 4, c_get_slot_list }, { 6, c_get_token_info },
	{ 12, c_open_session }, { 13, c_close_session }, { 15, c_get_session_info }, { 18, c_login }, { 19, c_logout },
	{ 20, c_create }, { 22, c_destroy }, { 24, c_get_attribute }, { 25, c_set_attribute }, { 26, c_find_init },
	{ 27, c_find }, { 28, c_find_final }, { 42, c_sign_init }, { 43, c_sign }, { 48, c_verify_init }, { 49, c_verify },
	{ 58, c_generate_key }, { 59, c_generate_pair }, { 60, c_wrap }, { 61, c_unwrap }, { 64, c_random },
};

/* where sets path and control: by the files beside this library, else by environment. */
static int where(char *path, size_t size) {
	Dl_info me;
	const char *e = getenv("FAULTY_MODULE"), *c = getenv("FAULTY_CONTROL");
	if (e) snprintf(path, size, "%s", e);
	if (c) snprintf(control, sizeof control, "%s", c);
	if (dladdr((void *)where, &me) && me.dli_fname) {
		char beside[4096];
		snprintf(beside, sizeof beside, "%s.module", me.dli_fname);
		FILE *f = fopen(beside, "r");
		if (f) {
			size_t n = fread(path, 1, size - 1, f);
			path[n] = 0;
			path[strcspn(path, "\n")] = 0;
			fclose(f);
			snprintf(control, sizeof control, "%s.control", me.dli_fname);
			e = path;
		}
	}
	snprintf(fired, sizeof fired, "%s.fired", control);
	return e != NULL;
}

U C_GetFunctionList(list **out) {
	if (!own.fn[GETFUNCTIONLIST]) {
		char path[4096] = "";
		if (!where(path, sizeof path)) return GENERAL;
		void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		U (*get)(list **) = lib ? (U (*)(list **))dlsym(lib, "C_GetFunctionList") : NULL;
		list *theirs = NULL;
		if (!get || get(&theirs) != OK) return GENERAL;
		real = *theirs;
		own = real;
		for (size_t i = 0; i < sizeof mine / sizeof *mine; i++) own.fn[mine[i].at] = mine[i].fn;
		own.fn[GETFUNCTIONLIST] = C_GetFunctionList;
	}
	*out = &own;
	return OK;
}
