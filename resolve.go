package stepio

import (
	"context"
	"net"
	"net/netip"
)

// ResolveAddr turns "host:port" into addresses: names by the system's resolver,
// in its order, IP literals as they are, and an empty host, as in ":8888", into
// the IPv6 wildcard, on which a listener takes IPv4 too. The port may be the name
// of a service, over TCP or, where there is none of that name, over UDP. IPv4
// addresses come in their plain form.
//
// It blocks: call it before the loop runs, or have a Job call it. The error is
// package net's, a *net.DNSError for a name that is not found.
func ResolveAddr(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	return resolveAddr(ctx, net.DefaultResolver, hostport)
}

func resolveAddr(ctx context.Context, resolver *net.Resolver, hostport string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	port, err := resolver.LookupPort(ctx, "ip", service)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "::"
	}
	// Literals are not for the resolver: it takes the zone off an address, and
	// answers the IPv6 wildcard with both families'.
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(port))}, nil
	}
	ips, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return addrs, nil
}
