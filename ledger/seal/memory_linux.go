package seal

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockedMemory hands out memory that is never swapped, is left out of core dumps
// and lies outside the Go heap. It is not safe for concurrent use. What it handed
// out is wiped and gone after close.
type lockedMemory struct {
	pages [][]byte
	used  int // of the last page
}

// alloc returns n zero bytes, n being at most a page.
func (m *lockedMemory) alloc(n int) ([]byte, error) {
	size := os.Getpagesize()
	if len(m.pages) == 0 || m.used+n > size {
		page, err := lockedPage(size)
		if err != nil {
			return nil, err
		}
		m.pages = append(m.pages, page)
		m.used = 0
	}
	b := m.pages[len(m.pages)-1][m.used : m.used+n : m.used+n]
	m.used += n
	return b, nil
}

func lockedPage(size int) ([]byte, error) {
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map a page for keys: %w", err)
	}
	if err := unix.Mlock(page); err != nil {
		return nil, errors.Join(
			fmt.Errorf("lock a page for keys in memory: %w; raise the limit (RLIMIT_MEMLOCK, LimitMEMLOCK= of systemd)", err),
			unix.Munmap(page))
	}
	if err := unix.Madvise(page, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("leave a page for keys out of core dumps: %w", err), unix.Munmap(page))
	}
	return page, nil
}

// close wipes and returns all memory.
func (m *lockedMemory) close() error {
	var errs []error
	for _, page := range m.pages {
		clear(page)
		errs = append(errs, unix.Munmap(page))
	}
	m.pages = nil
	return errors.Join(errs...)
}
