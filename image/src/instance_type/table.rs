//! The built-in families: numbers only, as EC2's describe-instance-types gives them.

use super::Family;
use super::Memory::{Each, PerCpu};

type Sizes = &'static [(&'static str, u32)];
type Disks = &'static [(u8, u64)];

const T3: Sizes = &[
    ("nano", 2),
    ("micro", 2),
    ("small", 2),
    ("medium", 2),
    ("large", 2),
    ("xlarge", 4),
    ("2xlarge", 8),
];

const T2: Sizes = &[
    ("nano", 1),
    ("micro", 1),
    ("small", 1),
    ("medium", 2),
    ("large", 2),
    ("xlarge", 4),
    ("2xlarge", 8),
];

const T_MIB: &[u64] = &[512, 1024, 2048, 4096, 8192, 16_384, 32_768];

/// Each list below begins with the sizes that all of the generation have.
macro_rules! sizes {
    ($($before:expr),*; $($after:expr),* $(,)?) => {
        &[
            $($before,)*
            ("large", 2),
            ("xlarge", 4),
            ("2xlarge", 8),
            ("4xlarge", 16),
            $($after),*
        ]
    };
}

const MEDIUM: (&str, u32) = ("medium", 1);
const X8: (&str, u32) = ("8xlarge", 32);
const X12: (&str, u32) = ("12xlarge", 48);
const X16: (&str, u32) = ("16xlarge", 64);
const X24: (&str, u32) = ("24xlarge", 96);
const X32: (&str, u32) = ("32xlarge", 128);
const X48: (&str, u32) = ("48xlarge", 192);

const TO_16: Sizes = sizes![; X8, X16];
const TO_24: Sizes = sizes![; X8, X12, X16, X24];
const TO_32: Sizes = sizes![; X8, X12, X16, X24, X32];
const TO_32_AND_48: Sizes = sizes![; X8, X12, X16, X24, X32, X48];
const TO_24_AND_48: Sizes = sizes![; X8, X12, X16, X24, X48];
const MEDIUM_TO_16: Sizes = sizes![MEDIUM; X8, X12, X16];
const MEDIUM_TO_48: Sizes = sizes![MEDIUM; X8, X12, X16, X24, X32, X48];
const MEDIUM_TO_24_AND_48: Sizes = sizes![MEDIUM; X8, X12, X16, X24, X48];
const C5: Sizes = sizes![; ("9xlarge", 36), X12, ("18xlarge", 72), X24];

const NVME_5: Disks = &[
    (1, 75),
    (1, 150),
    (1, 300),
    (2, 300),
    (2, 600),
    (2, 900),
    (4, 600),
    (4, 900),
];

const NVME_6I: Disks = &[
    (1, 118),
    (1, 237),
    (1, 474),
    (1, 950),
    (1, 1900),
    (2, 1425),
    (2, 1900),
    (4, 1425),
    (4, 1900),
];

const NVME_6G: Disks = &[
    (1, 59),
    (1, 118),
    (1, 237),
    (1, 474),
    (1, 950),
    (1, 1900),
    (2, 1425),
    (2, 1900),
];

const NONE: Disks = &[];

const C_MIB: super::Memory = PerCpu { mib: 2048 };
const M_MIB: super::Memory = PerCpu { mib: 4096 };
const R_MIB: super::Memory = PerCpu { mib: 8192 };

const fn family(
    names: &'static [&'static str],
    sizes: Sizes,
    memory: super::Memory,
    disks: Disks,
) -> Family {
    Family {
        names,
        sizes,
        memory,
        disks,
    }
}

pub(super) const FAMILIES: &[Family] = &[
    // Burstable.
    family(&["t1"], &[("micro", 1)], Each(&[627]), NONE),
    family(&["t2"], T2, Each(T_MIB), NONE),
    family(&["t3", "t3a", "t4g"], T3, Each(T_MIB), NONE),
    // General purpose.
    family(
        &["m1"],
        &[("small", 1), ("medium", 1), ("large", 2), ("xlarge", 4)],
        Each(&[1740, 3788, 7680, 15_360]),
        &[(1, 160), (1, 410), (2, 420), (4, 420)],
    ),
    family(
        &["m3"],
        &[("medium", 1), ("large", 2), ("xlarge", 4), ("2xlarge", 8)],
        PerCpu { mib: 3840 },
        &[(1, 4), (1, 32), (2, 40), (2, 80)],
    ),
    family(&["m4"], sizes![; ("10xlarge", 40), X16], M_MIB, NONE),
    family(&["m5", "m5a", "m5n"], TO_24, M_MIB, NONE),
    family(&["m5d", "m5ad", "m5dn"], TO_24, M_MIB, NVME_5),
    family(&["m6i", "m6in"], TO_32, M_MIB, NONE),
    family(&["m6id", "m6idn"], TO_32, M_MIB, NVME_6I),
    family(&["m6a"], TO_32_AND_48, M_MIB, NONE),
    family(&["m6g", "m7g"], MEDIUM_TO_16, M_MIB, NONE),
    family(&["m6gd", "m7gd"], MEDIUM_TO_16, M_MIB, NVME_6G),
    family(&["m7i"], TO_24_AND_48, M_MIB, NONE),
    family(&["m7a"], MEDIUM_TO_48, M_MIB, NONE),
    family(&["m8g"], MEDIUM_TO_24_AND_48, M_MIB, NONE),
    // Compute.
    family(
        &["c3"],
        sizes![; X8],
        PerCpu { mib: 1920 },
        &[(2, 16), (2, 40), (2, 80), (2, 160), (2, 320)],
    ),
    family(
        &["c4"],
        sizes![; ("8xlarge", 36)],
        Each(&[3840, 7680, 15_360, 30_720, 61_440]),
        NONE,
    ),
    family(&["c5"], C5, C_MIB, NONE),
    family(
        &["c5d"],
        C5,
        C_MIB,
        &[
            (1, 50),
            (1, 100),
            (1, 200),
            (1, 400),
            (1, 900),
            (2, 900),
            (2, 900),
            (4, 900),
        ],
    ),
    family(&["c5a"], TO_24, C_MIB, NONE),
    family(
        &["c5ad"],
        TO_24,
        C_MIB,
        &[
            (1, 75),
            (1, 150),
            (1, 300),
            (2, 300),
            (2, 600),
            (2, 900),
            (2, 1200),
            (2, 1900),
        ],
    ),
    family(&["c6i", "c6in"], TO_32, C_MIB, NONE),
    family(&["c6id"], TO_32, C_MIB, NVME_6I),
    family(&["c6a"], TO_32_AND_48, C_MIB, NONE),
    family(&["c6g", "c7g"], MEDIUM_TO_16, C_MIB, NONE),
    family(&["c6gd", "c7gd"], MEDIUM_TO_16, C_MIB, NVME_6G),
    family(&["c7i"], TO_24_AND_48, C_MIB, NONE),
    family(&["c7a"], MEDIUM_TO_48, C_MIB, NONE),
    family(&["c8g"], MEDIUM_TO_24_AND_48, C_MIB, NONE),
    // Memory.
    family(&["r4"], TO_16, PerCpu { mib: 7808 }, NONE),
    family(&["r5", "r5a", "r5n"], TO_24, R_MIB, NONE),
    family(&["r5d", "r5ad", "r5dn"], TO_24, R_MIB, NVME_5),
    family(&["r6i", "r6in"], TO_32, R_MIB, NONE),
    family(&["r6id", "r6idn"], TO_32, R_MIB, NVME_6I),
    family(&["r6a"], TO_32_AND_48, R_MIB, NONE),
    family(&["r6g", "r7g"], MEDIUM_TO_16, R_MIB, NONE),
    family(&["r6gd", "r7gd"], MEDIUM_TO_16, R_MIB, NVME_6G),
    family(&["r7i"], TO_24_AND_48, R_MIB, NONE),
    family(&["r7a"], MEDIUM_TO_48, R_MIB, NONE),
    family(&["r8g"], MEDIUM_TO_24_AND_48, R_MIB, NONE),
    family(
        &["z1d"],
        &[
            ("large", 2),
            ("xlarge", 4),
            ("2xlarge", 8),
            ("3xlarge", 12),
            ("6xlarge", 24),
            X12,
        ],
        R_MIB,
        &[(1, 75), (1, 150), (1, 300), (1, 450), (1, 900), (2, 900)],
    ),
    // Storage.
    family(
        &["i3"],
        TO_16,
        PerCpu { mib: 7808 },
        &[
            (1, 475),
            (1, 950),
            (1, 1900),
            (2, 1900),
            (4, 1900),
            (8, 1900),
        ],
    ),
    family(
        &["i3en"],
        &[
            ("large", 2),
            ("xlarge", 4),
            ("2xlarge", 8),
            ("3xlarge", 12),
            ("6xlarge", 24),
            X12,
            X24,
        ],
        R_MIB,
        &[
            (1, 1250),
            (1, 2500),
            (2, 2500),
            (1, 7500),
            (2, 7500),
            (4, 7500),
            (8, 7500),
        ],
    ),
    family(
        &["i4i"],
        TO_32,
        R_MIB,
        &[
            (1, 468),
            (1, 937),
            (1, 1875),
            (1, 3750),
            (2, 3750),
            (3, 3750),
            (4, 3750),
            (6, 3750),
            (8, 3750),
        ],
    ),
    family(
        &["im4gn"],
        TO_16,
        M_MIB,
        &[
            (1, 937),
            (1, 1875),
            (1, 3750),
            (1, 7500),
            (2, 7500),
            (4, 7500),
        ],
    ),
    family(
        &["d2"],
        &[
            ("xlarge", 4),
            ("2xlarge", 8),
            ("4xlarge", 16),
            ("8xlarge", 36),
        ],
        Each(&[31_232, 62_464, 124_928, 249_856]),
        &[(3, 2048), (6, 2048), (12, 2048), (24, 2048)],
    ),
    family(
        &["d3"],
        &[("xlarge", 4), ("2xlarge", 8), ("4xlarge", 16), X8],
        R_MIB,
        &[(3, 1980), (6, 1980), (12, 1980), (24, 1980)],
    ),
];
