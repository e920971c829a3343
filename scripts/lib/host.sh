# What KVM this machine has.
# shellcheck shell=bash disable=SC2034

# host_kvm: sets kvm to hardware (VMX, SVM, or Arm's EL2, without which there is none), software (a /dev/kvm that has neither
# VMX nor SVM: page tables of its own, privilege level 0 interpreted; small guests run, stock Linux kernels do not) or
# none, and kvm_why to a sentence about it.
host_kvm() {
    local module=
    for module in kvm_intel kvm_amd ''; do
        [ -z "$module" ] || [ ! -d "/sys/module/$module" ] || break
    done
    if [ ! -e /dev/kvm ]; then
        kvm=none kvm_why='this machine has no /dev/kvm'
    elif ! (: <>/dev/kvm) 2>/dev/null; then
        kvm=none kvm_why="this user may not use /dev/kvm (sudo usermod -aG kvm $(id -un), then log in again)"
    elif [ "$(uname -m)" = aarch64 ]; then
        kvm=hardware kvm_why='the KVM of this machine is hardware (EL2)'
    elif [ -n "$module" ] || grep -qwE 'vmx|svm' /proc/cpuinfo; then
        kvm=hardware kvm_why="the KVM of this machine is hardware${module:+ ($module)}"
    else
        kvm=software kvm_why='the KVM of this machine has neither VMX nor SVM behind it and cannot run a stock Linux kernel'
    fi
}
