//! What the demo shows: one figure a step, for people and as one JSON document.
