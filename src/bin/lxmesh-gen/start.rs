//! How one begins: a host file from what is there, and a picture of it.

use super::Answer;
use clap::{Args, ValueEnum};
use lxmesh::draft::{self, Draft};
use lxmesh::{graph, host};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct InitArguments {
    /// The host file to write; `-` prints it.
    #[arg(default_value = host::DEFAULT_PATH)]
    file: PathBuf,
}

#[derive(Args)]
pub struct ImportArguments {
    /// The agent.yaml.
    file: PathBuf,
    /// The host file to write; `-` prints it.
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Args)]
pub struct GraphArguments {
    /// The host file.
    #[arg(default_value = host::DEFAULT_PATH)]
    file: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Svg)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Svg,
    Mermaid,
}

pub fn init(arguments: &InitArguments) -> Answer {
    refuse_to_overwrite(&arguments.file)?;
    put(&arguments.file, Draft::of(&draft::look()))
}

pub fn import(arguments: &ImportArguments) -> Answer {
    refuse_to_overwrite(&arguments.output)?;
    let yaml = draft::yaml::read(&arguments.file)?;
    for note in &yaml.notes {
        eprintln!("{note}");
    }
    put(&arguments.output, Draft::of(&draft::look()).with(&yaml))
}

fn refuse_to_overwrite(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    match path.exists() && path != Path::new("-") {
        true => Err(format!(
            "{} exists already, and nothing was written\n  remedy: name another file, or - to print",
            path.display()
        )
        .into()),
        false => Ok(()),
    }
}

fn put(path: &Path, draft: Draft) -> Answer {
    let text = draft.text()?;
    if path == Path::new("-") {
        return Ok(text);
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Whoever was faster keeps the file.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(format!(
        "{}: written; read it, correct what says CHECK, then `lxmesh-gen check`\n",
        path.display()
    ))
}

pub fn graph(arguments: &GraphArguments) -> Answer {
    let file = host::load(&arguments.file)?;
    let picture = graph::Picture::of(&file);
    Ok(match arguments.format {
        Format::Svg => picture.svg(),
        Format::Mermaid => picture.mermaid(),
    })
}
