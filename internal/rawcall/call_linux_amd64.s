#include "textflag.h"

// func Call(trap, a, b, c, d, e, f uintptr) (n int, errno syscall.Errno)
//
// The arguments go where syscall(2) says, and the result is in RAX: from -4095
// to -1 it is an errno.
TEXT ·Call(SB), NOSPLIT, $0-72
	MOVQ trap+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ c+24(FP), DX
	MOVQ d+32(FP), R10
	MOVQ e+40(FP), R8
	MOVQ f+48(FP), R9
	SYSCALL
	TESTQ AX, AX
	JLT failed
	MOVQ AX, n+56(FP)
	MOVQ $0, errno+64(FP)
	RET
failed:
	NEGQ AX
	MOVQ $0, n+56(FP)
	MOVQ AX, errno+64(FP)
	RET
