package contend

import "slices"

// all is every contender in the order of the tables.
var all = slices.Concat(stepioContenders(), limitContenders(), peerContenders())
