package main

// notSentLowat is TCP_NOTSENT_LOWAT, which package syscall does not name.
const notSentLowat = 0x19
