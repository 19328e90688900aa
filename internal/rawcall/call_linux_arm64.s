#include "textflag.h"

// func Call(trap, a, b, c, d, e, f uintptr) (n int, errno syscall.Errno)
//
// The arguments go where syscall(2) says, and the result is in R0: from -4095
// to -1 it is an errno.
TEXT ·Call(SB), NOSPLIT, $0-72
	MOVD trap+0(FP), R8
	MOVD a+8(FP), R0
	MOVD b+16(FP), R1
	MOVD c+24(FP), R2
	MOVD d+32(FP), R3
	MOVD e+40(FP), R4
	MOVD f+48(FP), R5
	SVC
	TBNZ $63, R0, failed
	MOVD R0, n+56(FP)
	MOVD ZR, errno+64(FP)
	RET
failed:
	NEG R0, R0
	MOVD ZR, n+56(FP)
	MOVD R0, errno+64(FP)
	RET
