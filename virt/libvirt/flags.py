"""CPU flags that a flavor or image asks for by the traits ``HW_CPU_X86_*``.

A required trait becomes a flag that the guest's CPU must have, so that the guest really sees it; a
forbidden one a flag that it must not have. Which flags guests can have here is asked of libvirt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compute.model.guest import Guest

PREFIX = "HW_CPU_X86_"
REQUIRED, FORBIDDEN = "required", "forbidden"
# The part of each trait behind the prefix, and libvirt's name of the flag.
NAMES: Mapping[str, str] = {
    "3DNOW": "3dnow", "ABM": "abm", "AESNI": "aes", "AMXBF16": "amx-bf16", "AMXINT8": "amx-int8",
    "AMXTILE": "amx-tile", "AVX": "avx", "AVX2": "avx2", "AVX512BITALG": "avx512bitalg",
    "AVX512BW": "avx512bw", "AVX512CD": "avx512cd", "AVX512DQ": "avx512dq",
    "AVX512ER": "avx512er", "AVX512F": "avx512f", "AVX512GFNI": "gfni",
    "AVX512IFMA": "avx512ifma", "AVX512PF": "avx512pf", "AVX512VAES": "vaes",
    "AVX512VBMI": "avx512vbmi", "AVX512VBMI2": "avx512vbmi2", "AVX512VL": "avx512vl",
    "AVX512VNNI": "avx512vnni", "AVX512VPCLMULQDQ": "vpclmulqdq",
    "AVX512VPOPCNTDQ": "avx512-vpopcntdq", "BMI": "bmi1", "BMI2": "bmi2", "CLMUL": "pclmuldq",
    "F16C": "f16c", "FMA3": "fma", "FMA4": "fma4", "MMX": "mmx", "MPX": "mpx",
    "PDPE1GB": "pdpe1gb", "SHA": "sha-ni", "SSE": "sse", "SSE2": "sse2", "SSE3": "pni",
    "SSE41": "sse4.1", "SSE42": "sse4.2", "SSE4A": "sse4a", "SSSE3": "ssse3", "STIBP": "stibp",
    "SVM": "svm", "TBM": "tbm", "TSX": "rtm", "VMX": "vmx", "XOP": "xop",
    "AMD_IBPB": "ibpb", "AMD_NO_SSB": "amd-no-ssb", "AMD_SSBD": "amd-ssbd", "AMD_SVM": "svm",
    "AMD_VIRT_SSBD": "virt-ssbd", "INTEL_MD_CLEAR": "md-clear", "INTEL_PCID": "pcid",
    "INTEL_SPEC_CTRL": "spec-ctrl", "INTEL_SSBD": "ssbd", "INTEL_VMX": "vmx",
}  # fmt: skip


def flag(trait: str) -> str | None:
    """libvirt's flag for a trait such as ``HW_CPU_X86_AVX2``; None when there is none."""
    if not trait.startswith(PREFIX):
        return None
    return NAMES.get(trait.removeprefix(PREFIX))


def asked(guest: Guest) -> dict[str, str]:
    """The traits that flavor and image name, each with ``required`` or ``forbidden``."""
    image = guest.image.properties if guest.image else {}
    found: dict[str, str] = {}
    for wishes in (image, guest.flavor.extra_specs):
        for name, value in wishes.items():
            if name.startswith("trait") and ":" in name:
                found[name.partition(":")[2]] = str(value).lower()
    return found


def wanted(guest: Guest) -> tuple[tuple[str, bool], ...]:
    """(flag, whether it must be there) for each CPU trait that flavor or image ask for."""
    return tuple(sorted(
        (name, word == REQUIRED) for trait, word in asked(guest).items()
        if word in (REQUIRED, FORBIDDEN) and (name := flag(trait)) is not None))


def traits(flags: Iterable[str]) -> tuple[str, ...]:
    """The CPU traits that are true where guests can have ``flags``."""
    there = set(flags)
    return tuple(sorted(PREFIX + name for name, each in NAMES.items() if each in there))
