//! Links ISA-L, the library that the gateway itself inflates with, where it is asked for.
fn main() {
    println!("cargo:rerun-if-changed=gunzip.c");
    if std::env::var_os("CARGO_FEATURE_ISAL").is_some() {
        cc::Build::new().file("gunzip.c").opt_level(2).compile("gunzip");
        println!("cargo:rustc-link-lib=isal");
    }
}
