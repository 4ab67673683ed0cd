//! The configurations that come with the program, in the order in which they are listed. The first line of each
//! file is its summary.

/// Name and TOML text.
pub(super) const ALL: [(&str, &str); 8] = [
    ("quickstart", include_str!("../../presets/quickstart.toml")),
    ("longer", include_str!("../../presets/longer.toml")),
    ("files", include_str!("../../presets/files.toml")),
    ("gsm8k", include_str!("../../presets/gsm8k.toml")),
    ("smollm2", include_str!("../../presets/smollm2.toml")),
    ("polar-50m", include_str!("../../presets/polar-50m.toml")),
    ("polar-1.8b", include_str!("../../presets/polar-1.8b.toml")),
    ("polar-7b", include_str!("../../presets/polar-7b.toml")),
];
