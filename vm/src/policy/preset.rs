//! Presets: what most owners want, by one word. A policy that names one starts from it and changes what it likes.

/// Name, what it is for, and its text, which is a policy like any other.
pub const PRESETS: [(&str, &str, &str); 5] = [
    (
        "polite",
        "lends what you do not use: a tenth of the machine and the last place in the queue while you work at it",
        include_str!("presets/polite.toml"),
    ),
    (
        "night",
        "lends the machine from 22:00 to 07:00 and hibernates guests at the end of the night",
        include_str!("presets/night.toml"),
    ),
    (
        "laptop",
        "polite, and guests stand still on battery, on a metered connection and when it is hot",
        include_str!("presets/laptop.toml"),
    ),
    (
        "server",
        "lends all that is idle at any hour, at a fifth of your own programs' weight",
        include_str!("presets/server.toml"),
    ),
    (
        "lab",
        "many guests for many users, two each, with promised slices for interactive ones",
        include_str!("presets/lab.toml"),
    ),
];

/// The text of a preset.
pub(super) fn text(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(n, ..)| *n == name).map(|(_, _, text)| *text)
}
