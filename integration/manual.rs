//! Man pages and shell completions come from the same declarations as `--help`. They are kept in
//! the tree, so that packaging needs no generator; each program's own tests see that they are true.
//!
//! `UPDATE_GOLDEN=1 cargo test --bins` writes them.

use clap::Command;
use clap_complete::Shell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Compares (or writes) the man pages of a program and its subcommands, and its completions.
pub fn check(program: Command) {
    let name = program.get_name().to_string();
    let mut wanted = completions(program.clone());
    let mut program = program.disable_help_subcommand(true);
    program.build();
    pages(&program, &name, &mut wanted);

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for (path, text) in &wanted {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
    for (path, text) in &wanted {
        let found = fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(
            &found == text,
            "{} is not what the arguments of {name} say; `UPDATE_GOLDEN=1 cargo test --bins` writes it anew",
            path.display()
        );
    }
}

fn pages(command: &Command, name: &str, wanted: &mut BTreeMap<PathBuf, String>) {
    let page = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("lxmesh ", env!("CARGO_PKG_VERSION")))
        .date("")
        .manual("LXMesh");
    let mut text = Vec::new();
    page.render(&mut text).unwrap();
    wanted.insert(
        format!("docs/man/{name}.1").into(),
        String::from_utf8(text).unwrap(),
    );
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        pages(inner, &format!("{name}-{}", inner.get_name()), wanted);
    }
}

fn completions(mut program: Command) -> BTreeMap<PathBuf, String> {
    let name = program.get_name().to_string();
    let files = [
        (Shell::Bash, format!("{name}.bash")),
        (Shell::Zsh, format!("_{name}")),
        (Shell::Fish, format!("{name}.fish")),
    ];
    let mut wanted = BTreeMap::new();
    for (shell, file) in files {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program, &name, &mut text);
        let text = String::from_utf8(text).unwrap();
        wanted.insert(Path::new("debian/completions").join(file), text);
    }
    wanted
}
