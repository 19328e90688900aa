package contend

// peerContenders are the libraries that stepio is compared with, in the order
// of the tables.
func peerContenders() []Contender {
	list := []Contender{netPeer(), netSmallPeer(), netLargePeer()}
	list = append(list, gnetPeers()...)
	return append(list, nbioPeer(), netpollPeer(), evioPeer(), gaioPeer(), netHTTPPeer(), fastHTTPPeer())
}
