//! Links the shipped binary without its unwind tables.

fn main() {
    println!("cargo::rerun-if-changed=no-unwind-tables.ld");
    // A debug build keeps them, for debuggers and for the tests, which unwind when they panic.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/no-unwind-tables.ld");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{script}");
    }
}
