# The boot sector of DecideAccel: long mode, CPUID, FPU, SSE, a task register,
# MSRs, then a word on COM1. Under a KVM that cannot run FreeBSD ("kvm-pvm" among
# them) one of these ends in "emulation failure".
#
#   as --64 -o probe.o probe.asm && ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
.code16
.globl _start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	cld
	ljmp	$0, $1f
1:	movw	$0x1000, %di		# page tables: one page of 2 MiB, mapped to itself
	xorl	%eax, %eax
	movw	$0x1800, %cx
	rep stosw
	movl	$0x2003, 0x1000
	movl	$0x3003, 0x2000
	movl	$0x0083, 0x3000
	movl	%cr4, %eax
	orl	$0x620, %eax		# PAE, OSFXSR, OSXMMEXCPT
	movl	%eax, %cr4
	movl	$0x1000, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	# EFER.LME
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000001, %eax	# PG, PE
	andl	$~0x4, %eax		# not EM
	movl	%eax, %cr0
	lgdt	gdtr
	ljmp	$8, $long
.code64
long:	movl	$1, %eax
	cpuid
	fninit
	fwait
	fldcw	fpucw
	xorps	%xmm0, %xmm0
	movaps	%xmm0, 0x5000
	lidt	idtr
	movl	$0x10, %eax
	ltr	%ax
	movl	$0xc0000101, %ecx	# GS.base
	rdmsr
	wrmsr
	swapgs
	invlpg	0x5000
	wbinvd
	movl	$text, %esi
2:	lodsb
	testb	%al, %al
	jz	4f
	movb	%al, %ah
	movw	$0x3fd, %dx
3:	inb	%dx, %al
	testb	$0x20, %al
	jz	3b
	movb	%ah, %al
	movw	$0x3f8, %dx
	outb	%al, %dx
	jmp	2b
4:	hlt
	jmp	4b
text:	.asciz	"rig: works\r\n"
fpucw:	.word	0x37f
	.align	8
gdt:	.quad	0, 0x00af9a000000ffff, 0x0000890050000067, 0
gdtr:	.word	31
	.long	gdt
idtr:	.word	0
	.quad	0
