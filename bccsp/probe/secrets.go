package probe

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

var keyWrap = []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_WRAP, nil)}

// importAES makes a session object of a test key.
func (b *Bench) importAES(value []byte, uses ...uint) (p11.ObjectHandle, error) {
	a := p11.NewAttribute
	template := []*p11.Attribute{a(p11.CKA_CLASS, p11.CKO_SECRET_KEY), a(p11.CKA_KEY_TYPE, p11.CKK_AES), a(p11.CKA_TOKEN, false),
		a(p11.CKA_PRIVATE, true), a(p11.CKA_VALUE, value), a(p11.CKA_LABEL, label)}
	for _, use := range uses {
		template = append(template, a(use, true))
	}
	h, err := b.module.CreateObject(b.session, template)
	if err != nil {
		return 0, missing(call("C_CreateObject", err))
	}
	b.made = append(b.made, object{b.session, h})
	return h, nil
}

// gcmKey imports a random AES-256 key and gives Go's GCM with it.
func (b *Bench) gcmKey() (p11.ObjectHandle, []byte, error) {
	if err := b.needs(p11.CKM_AES_GCM, "CKM_AES_GCM"); err != nil {
		return 0, nil, err
	}
	key := random(32)
	h, err := b.importAES(key, p11.CKA_ENCRYPT, p11.CKA_DECRYPT)
	return h, key, err
}

func random(n int) []byte {
	out := make([]byte, n)
	rand.Read(out) // never fails
	return out
}

// encrypt encrypts with CKM_AES_GCM and returns the IV that was used: the caller's, or
// the device's where that writes its own into the parameter.
func (b *Bench) encrypt(key p11.ObjectHandle, iv, aad, plain []byte) (used, out []byte, err error) {
	params := p11.NewGCMParams(iv, aad, 128)
	defer params.Free()
	if err := b.module.EncryptInit(b.session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, nil, missing(call("C_EncryptInit", err))
	}
	if out, err = b.module.Encrypt(b.session, plain); err != nil {
		return nil, nil, call("C_Encrypt", err)
	}
	if len(iv) > 0 {
		used = bytes.Clone(params.IV())
	}
	return used, out, nil
}

func (b *Bench) checkGCM(bool) (string, error) {
	h, key, err := b.gcmKey()
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	detail := "caller's IV"
	for _, size := range []int{1, 16, 1000, 16384} {
		iv, aad, plain := random(12), random(37), random(size)
		used, out, err := b.encrypt(h, iv, aad, plain)
		if err != nil {
			return "", err
		}
		if extra := len(out) - size - 16; extra == 12 || extra == 16 { // the device appends its IV
			used, out = out[size+16:], out[:size+16]
		}
		if !bytes.Equal(used, iv) {
			detail = fmt.Sprintf("the device made the IV, of %d bytes", len(used))
		}
		software, err := cipher.NewGCMWithNonceSize(block, len(used))
		if err != nil {
			return "", err
		}
		if !bytes.Equal(out, software.Seal(nil, used, plain, aad)) {
			return "", fmt.Errorf("%d bytes: the device's answer is not Go's", size)
		}
	}
	return detail, nil
}

func (b *Bench) checkGCMTamper(bool) (string, error) {
	h, _, err := b.gcmKey()
	if err != nil {
		return "", err
	}
	iv, aad, plain := random(12), random(37), random(100)
	used, out, err := b.encrypt(h, iv, aad, plain)
	if err != nil {
		return "", err
	}
	decrypt := func(data []byte) ([]byte, error) {
		params := p11.NewGCMParams(used, aad, 128)
		defer params.Free()
		if err := b.module.DecryptInit(b.session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, h); err != nil {
			return nil, call("C_DecryptInit", err)
		}
		back, err := b.module.Decrypt(b.session, data)
		return back, call("C_Decrypt", err)
	}
	back, err := decrypt(out)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(back, plain) {
		return "", errors.New("what was encrypted came back changed")
	}
	out[len(out)-1] ^= 1
	if _, err := decrypt(out); err == nil {
		return "", errors.New("a changed tag was accepted")
	} else if lost(err) {
		return "", err
	} else {
		return err.Error(), nil
	}
}

func (b *Bench) checkGCMEmptyIV(bool) (string, error) {
	h, _, err := b.gcmKey()
	if err != nil {
		return "", err
	}
	if _, _, err := b.encrypt(h, nil, nil, random(16)); err == nil {
		return "", errors.New("it encrypted without an IV")
	} else if lost(err) {
		return "", err
	}
	return "", nil
}

// wrapSoftware is RFC 3394 section 2.2.1.
func wrapSoftware(kek, data []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(data) / 8
	out := append(bytes.Repeat([]byte{0xa6}, 8), data...)
	var buf [16]byte
	for t := 1; t <= 6*n; t++ {
		r := out[8*((t-1)%n+1):][:8]
		copy(buf[:8], out[:8])
		copy(buf[8:], r)
		block.Encrypt(buf[:], buf[:])
		binary.BigEndian.PutUint64(out[:8], binary.BigEndian.Uint64(buf[:8])^uint64(t))
		copy(r, buf[8:])
	}
	return out, nil
}

func (b *Bench) wrapping(kek []byte) (p11.ObjectHandle, error) {
	if err := b.needs(p11.CKM_AES_KEY_WRAP, "CKM_AES_KEY_WRAP"); err != nil {
		return 0, err
	}
	return b.importAES(kek, p11.CKA_WRAP, p11.CKA_UNWRAP)
}

func (b *Bench) wrap(kek p11.ObjectHandle, data []byte) ([]byte, error) {
	h, err := b.importAES(data, p11.CKA_EXTRACTABLE)
	if err != nil {
		return nil, err
	}
	out, err := b.module.WrapKey(b.session, keyWrap, kek, h)
	return out, missing(call("C_WrapKey", err))
}

func (b *Bench) unwrap(kek p11.ObjectHandle, wrapped []byte) ([]byte, error) {
	a := p11.NewAttribute
	h, err := b.module.UnwrapKey(b.session, keyWrap, kek, wrapped, []*p11.Attribute{
		a(p11.CKA_CLASS, p11.CKO_SECRET_KEY), a(p11.CKA_KEY_TYPE, p11.CKK_AES), a(p11.CKA_TOKEN, false),
		a(p11.CKA_SENSITIVE, false), a(p11.CKA_EXTRACTABLE, true), a(p11.CKA_LABEL, label)})
	if err != nil {
		return nil, missing(call("C_UnwrapKey", err))
	}
	b.made = append(b.made, object{b.session, h})
	got, err := b.module.GetAttributeValue(b.session, h, []*p11.Attribute{a(p11.CKA_VALUE, nil)})
	if err != nil || len(got) != 1 {
		return nil, fmt.Errorf("value of an unwrapped key: %w", errors.Join(err, errors.New("not readable")))
	}
	return got[0].Value, nil
}

// RFC 3394 section 4.6.
var (
	rfcKEK     = unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	rfcKey     = unhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
	rfcWrapped = unhex("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21")
)

func (b *Bench) checkKeyWrap(bool) (string, error) {
	for i := range 5 {
		kek, key, want := random(32), random(32), []byte(nil)
		if i == 0 {
			kek, key, want = rfcKEK, rfcKey, rfcWrapped
		} else {
			var err error
			if want, err = wrapSoftware(kek, key); err != nil {
				return "", err
			}
		}
		h, err := b.wrapping(kek)
		if err != nil {
			return "", err
		}
		got, err := b.wrap(h, key)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(got, want) {
			return "", fmt.Errorf("the device's answer has %d bytes and is not the standard's", len(got))
		}
		back, err := b.unwrap(h, got)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(back, key) {
			return "", errors.New("a key that was wrapped and unwrapped came back changed")
		}
	}
	return "the RFC's vector and 4 random keys", nil
}

func (b *Bench) checkKeyWrapTamper(bool) (string, error) {
	h, err := b.wrapping(rfcKEK)
	if err != nil {
		return "", err
	}
	if _, err := b.unwrap(h, rfcWrapped); err != nil {
		return "", err
	}
	for i := range rfcWrapped {
		bad := bytes.Clone(rfcWrapped)
		bad[i] ^= 1
		if _, err := b.unwrap(h, bad); err == nil {
			return "", fmt.Errorf("byte %d was changed and the key was unwrapped", i)
		} else if lost(err) {
			return "", err
		}
	}
	return "", nil
}

// flag reads a boolean attribute.
func (b *Bench) flag(h p11.ObjectHandle, kind uint) (bool, error) {
	got, err := b.module.GetAttributeValue(b.session, h, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	if err != nil {
		return false, call("C_GetAttributeValue", err)
	}
	if len(got) != 1 || len(got[0].Value) != 1 {
		return false, fmt.Errorf("attribute 0x%X is no truth value", kind)
	}
	return got[0].Value[0] != 0, nil
}

// protected sees that a key is sensitive and not extractable.
func (b *Bench) protected(h p11.ObjectHandle) error {
	sensitive, err := b.flag(h, p11.CKA_SENSITIVE)
	if err != nil {
		return err
	}
	extractable, err := b.flag(h, p11.CKA_EXTRACTABLE)
	if err != nil {
		return err
	}
	if !sensitive || extractable {
		return fmt.Errorf("a private key has sensitive %t, extractable %t", sensitive, extractable)
	}
	return nil
}

func (b *Bench) checkHidden(bool) (string, error) {
	_, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	if err := b.protected(private); err != nil {
		return "", err
	}
	got, err := b.module.GetAttributeValue(b.session, private, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})
	if lost(err) {
		return "", err
	}
	if err == nil && len(got) == 1 && len(got[0].Value) > 0 {
		clear(got[0].Value)
		return "", errors.New("the value of a private key is readable")
	}
	return "", nil
}

func (b *Bench) checkAttributes(bool) (string, error) {
	_, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	for _, change := range []*p11.Attribute{p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_SENSITIVE, false)} {
		if err := b.module.SetAttributeValue(b.session, private, []*p11.Attribute{change}); lost(err) {
			return "", call("C_SetAttributeValue", err)
		}
		if err := b.protected(private); err != nil {
			return "", fmt.Errorf("after C_SetAttributeValue: %w", err)
		}
	}
	return "", nil
}

func (b *Bench) checkWrapRefused(bool) (string, error) {
	kek, err := b.wrapping(random(32))
	if err != nil {
		return "", err
	}
	a := p11.NewAttribute
	inner, err := b.module.GenerateKey(b.session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, []*p11.Attribute{
		a(p11.CKA_CLASS, p11.CKO_SECRET_KEY), a(p11.CKA_KEY_TYPE, p11.CKK_AES), a(p11.CKA_VALUE_LEN, 32), a(p11.CKA_TOKEN, false),
		a(p11.CKA_PRIVATE, true), a(p11.CKA_SENSITIVE, true), a(p11.CKA_EXTRACTABLE, false), a(p11.CKA_LABEL, label)})
	if err != nil {
		return "", missing(call("C_GenerateKey", err))
	}
	b.made = append(b.made, object{b.session, inner})
	keys := []p11.ObjectHandle{inner}
	if _, private, err := b.pair(b.session, elliptic.P256()); err == nil {
		keys = append(keys, private)
	} else if !errors.Is(err, errMissing) {
		return "", err
	}
	var answers []string
	for _, h := range keys {
		out, err := b.module.WrapKey(b.session, keyWrap, kek, h)
		if err == nil {
			clear(out)
			return "", errors.New("C_WrapKey gave out a key that is not extractable")
		}
		if lost(err) {
			return "", call("C_WrapKey", err)
		}
		answers = append(answers, err.Error())
	}
	return fmt.Sprint(answers), nil
}
