/* The floor that `scripts/bench launch` measures kami against: the fewest calls that boot the test guest.
 *
 *     floor KERNEL CMDLINE
 *
 * Enters an ELF kernel by its PVH entry (Xen docs/misc/pvh.pandoc) on one vCPU with 128 MiB, a split irqchip and
 * neither devices nor ioeventfds; what the guest writes to COM1 goes to standard output. Ends with the guest's power
 * off (port 0x600), reset (port 0x64) or triple fault. No error is explained: it is a yardstick, not a tool.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (128ul << 20)
#define CMDLINE 0x20000
#define START_INFO 0x6000
#define MEMORY_MAP 0x6100

static uint8_t *ram;

static int must(int result, int code)
{
	if (result < 0)
		_exit(code);
	return result;
}

/* Reads the loadable segments into guest memory; returns the 32-bit entry that the Xen note 18 names. */
static uint32_t load(const char *path)
{
	uint8_t head[4096];
	Elf64_Ehdr *elf = (void *)head;
	Elf64_Phdr *segment;
	uint32_t entry = 0;
	int file = must(open(path, O_RDONLY), 10);

	must(read(file, head, sizeof head), 11);
	if (memcmp(elf->e_ident, ELFMAG, SELFMAG) || elf->e_phoff + elf->e_phnum * sizeof *segment > sizeof head)
		_exit(12);
	segment = (void *)(head + elf->e_phoff);
	for (int i = 0; i < elf->e_phnum; i++, segment++) {
		if (segment->p_type == PT_LOAD && segment->p_paddr + segment->p_memsz <= MEMORY && segment->p_filesz)
			must(pread(file, ram + segment->p_paddr, segment->p_filesz, segment->p_offset), 13);
		if (segment->p_type == PT_NOTE) {
			uint32_t *note = (void *)(ram + segment->p_paddr); /* 4-byte name, 4-byte type 18 */
			if (note[2] == 18 && !memcmp(&note[3], "Xen", 4))
				entry = note[4];
		}
	}
	return entry ? entry : (_exit(14), 0);
}

/* hvm_start_info version 1 and a memory map of one entry. */
static void describe(const char *cmdline)
{
	uint32_t *info = (void *)(ram + START_INFO);
	uint64_t *map = (void *)(ram + MEMORY_MAP);

	info[0] = 0x336ec578;
	info[1] = 1;
	info[6] = CMDLINE;
	info[10] = MEMORY_MAP;
	info[12] = 1;
	map[1] = MEMORY;
	((uint32_t *)map)[4] = 1;
	strcpy((char *)ram + CMDLINE, cmdline);
}

/* 32-bit protected mode, flat segments, paging off; ebx = the start info. */
static void set_registers(int vcpu, uint32_t entry)
{
	struct kvm_segment flat = { .limit = 0xffffffff, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1, .selector = 0x10 };
	struct kvm_regs regs = { .rip = entry, .rbx = START_INFO, .rflags = 2 };
	struct kvm_sregs sregs;

	must(ioctl(vcpu, KVM_GET_SREGS, &sregs), 20);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 11;
	sregs.cs.selector = 8;
	sregs.cr0 = 1;
	must(ioctl(vcpu, KVM_SET_SREGS, &sregs), 21);
	must(ioctl(vcpu, KVM_SET_REGS, &regs), 22);
}

int main(int argc, char **argv)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY };
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 128 * sizeof cpuid->entries[0]);
	struct kvm_run *run;
	int kvm, vm, vcpu;

	if (argc != 3)
		return 2;
	kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), 3);
	vm = must(ioctl(kvm, KVM_CREATE_VM, 0), 4);
	ram = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	slot.userspace_addr = (uintptr_t)ram;
	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), 5);
	must(ioctl(vm, KVM_ENABLE_CAP, &split), 6);
	vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), 7);
	run = mmap(0, must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), 8), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	cpuid->nent = 128;
	must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), 9);
	must(ioctl(vcpu, KVM_SET_CPUID2, cpuid), 15);
	set_registers(vcpu, load(argv[1]));
	describe(argv[2]);
	while (ioctl(vcpu, KVM_RUN, 0) == 0) {
		uint8_t *data = (uint8_t *)run + run->io.data_offset;
		if (run->exit_reason == KVM_EXIT_SHUTDOWN)
			return 0;
		if (run->exit_reason != KVM_EXIT_IO)
			return 16;
		if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == 0x3f8)
			must(write(1, data, run->io.count), 17);
		else if (run->io.direction == KVM_EXIT_IO_OUT && (run->io.port == 0x600 || run->io.port == 0x64))
			return 0;
	}
	return 18;
}
