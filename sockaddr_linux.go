package stepio

import "encoding/binary"

// family is the address family: the first two bytes.
func (sa *sockaddr) family() int { return int(binary.NativeEndian.Uint16(sa[:2])) }

func (sa *sockaddr) setFamily(family, _ int) { binary.NativeEndian.PutUint16(sa[:2], uint16(family)) }
