package stepio

// family is the address family: the second byte, after the length.
func (sa *sockaddr) family() int { return int(sa[1]) }

func (sa *sockaddr) setFamily(family, length int) { sa[0], sa[1] = byte(length), byte(family) }
