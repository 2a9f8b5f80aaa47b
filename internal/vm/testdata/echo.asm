# The boot sector of the tests: says who it is on COM1, then echoes what it
# receives (Enter as CR LF). "!" resets the machine, "." powers it off.
#
#   as --32 -o echo.o echo.asm && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o echo.bin echo.o
.code16
.globl _start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %ss
	movw	$0x7c00, %sp
	cld
	ljmp	$0, $1f
1:	movw	$text, %si
2:	lodsb
	testb	%al, %al
	jz	3f
	call	putc
	jmp	2b
3:	call	getc
	cmpb	$'!', %al
	je	reset
	cmpb	$'.', %al
	je	off
	cmpb	$0x0d, %al
	jne	4f
	call	putc
	movb	$0x0a, %al
4:	call	putc
	jmp	3b
reset:	movb	$0xfe, %al		# keyboard controller: pulse the reset line
	outb	%al, $0x64
	hlt
	jmp	reset
off:	movw	$0x604, %dx		# q35 under SeaBIOS: PM1a_CNT = SLP_EN, S5
	movw	$0x2000, %ax
	outw	%ax, %dx
	hlt
	jmp	off
putc:	movb	%al, %ah
	movw	$0x3fd, %dx
5:	inb	%dx, %al
	testb	$0x20, %al
	jz	5b
	movb	%ah, %al
	movw	$0x3f8, %dx
	outb	%al, %dx
	ret
getc:	movw	$0x3fd, %dx
6:	inb	%dx, %al
	testb	$1, %al
	jz	6b
	movw	$0x3f8, %dx
	inb	%dx, %al
	ret
text:	.asciz	"rig boot sector\r\n> "
