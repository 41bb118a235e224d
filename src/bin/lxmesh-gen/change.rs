//! What changes this host, and what only says what would: diff, plan, apply, confirm, rollback,
//! adopt. The work is the library's.

use super::{Answer, Whose};
use clap::Args;
use lxmesh::apply::{self, Outcome, Request};
use lxmesh::generate::diff::{self, DiffText};
use lxmesh::generate::plan::Plan;
use lxmesh::generate::write::{self, Fate, Surveyed};
use lxmesh::generate::{self, OutputFile, extra};
use lxmesh::host::{self, HostFile};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Where things come from and go to.
#[derive(Args)]
pub struct Place {
    /// The host file.
    #[arg(long, value_name = "FILE", default_value = host::DEFAULT_PATH)]
    host_file: PathBuf,
    /// The host's root directory. Below another than `/` only files are looked at and written.
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
    #[command(flatten)]
    of: Whose,
}

#[derive(Args)]
pub struct ApplyArguments {
    #[command(flatten)]
    place: Place,
    /// Undo it all unless `lxmesh-gen confirm` comes within so many seconds after it is done.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=86400))]
    confirm: Option<u64>,
    /// Do not look at BGP, tunnels and packet sizes. Better with `--confirm`.
    #[arg(long)]
    no_health: bool,
    /// How long the fabric may take to be as well as before.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    health_limit: u64,
}

#[derive(Args)]
pub struct AdoptArguments {
    #[command(flatten)]
    place: Place,
    /// The file, as `render` names it.
    file: PathBuf,
}

#[derive(Args)]
pub struct RootArgument {
    /// The host's root directory.
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
}

#[derive(Args)]
pub struct RollbackArguments {
    #[command(flatten)]
    root: RootArgument,
    /// Files only: the programs that read them start later.
    #[arg(long, hide = true)]
    at_boot: bool,
}

/// The host file, its text, and what is rendered of it.
struct Rendered {
    text: String,
    file: HostFile,
    outputs: Vec<OutputFile>,
    here: generate::Here,
}

fn render(place: &Place) -> Result<Rendered, Box<dyn Error>> {
    let file = host::load(&place.host_file)?;
    let facts = place.of.facts(&file)?;
    let here = generate::detect(&file, &facts)?;
    let mut outputs = generate::render(&file, &facts)?;
    extra::append(&mut outputs, &extra::read(&place.root)?);
    Ok(Rendered {
        // It was read and found correct a moment ago.
        text: std::fs::read_to_string(&place.host_file)?,
        file,
        outputs,
        here,
    })
}

/// Unified diffs of all files that would change.
pub fn diff(place: &Place) -> Answer {
    let rendered = render(place)?;
    let surveyed = write::survey(&place.root, &rendered.outputs, true)?;
    let changing = surveyed.iter().filter(|one| one.changes());
    Ok(changing.map(diff_of).collect())
}

fn diff_of(one: &Surveyed) -> String {
    let note = match &one.fate {
        Fate::Forced { .. } => format!(
            "{}: not ours or edited; `lxmesh-gen adopt` takes it over\n",
            one.path.display()
        ),
        _ => String::new(),
    };
    let after = one.after.as_ref().map(|output| output.contents.as_bytes());
    note + &diff::unified(DiffText {
        path: &one.path,
        before: one.before.as_deref(),
        after,
    })
}

/// A plan in words, and whether there is anything in it.
pub struct Planned {
    pub text: String,
    pub something: bool,
}

/// What would change, at which cost, and what would be run.
pub fn plan(place: &Place) -> Result<Planned, Box<dyn Error>> {
    let rendered = render(place)?;
    let (surveyed, plan) = apply::preview(&place.root, &rendered.outputs, &rendered.file)?;
    for path in extra::orphans(&place.root, &rendered.outputs) {
        eprintln!(
            "note: nothing reads {} any more: its unit is no longer rendered",
            path.display()
        );
    }
    for one in surveyed.iter().filter(|one| one.fate == Fate::Left) {
        eprintln!("note: {} is {}", one.path.display(), one.fate);
    }
    Ok(Planned {
        text: text_of(&surveyed, &plan),
        something: !plan.is_empty(),
    })
}

fn text_of(surveyed: &[Surveyed], plan: &Plan) -> String {
    if plan.is_empty() {
        return "nothing to do\n".into();
    }
    let mut text = format!("cost: {}\n", plan.cost());
    for effect in &plan.effects {
        text += &format!("  {effect}\n");
    }
    text += "files:\n";
    for one in surveyed.iter().filter(|one| one.changes()) {
        let what = match one.fate {
            Fate::Created => "create",
            Fate::Removed => "remove",
            _ => "replace",
        };
        text += &format!("  {what:7}  {}\n", one.path.display());
    }
    text += "steps:\n";
    for step in &plan.steps {
        text += &format!("  {step}\n");
    }
    text
}

/// Applies, telling what it does.
pub fn apply(arguments: &ApplyArguments) -> Answer {
    let place = &arguments.place;
    let rendered = render(place)?;
    for note in generate::notes(&rendered.file) {
        eprintln!("note: {note}");
    }
    let own = place.host_file == Path::new(host::DEFAULT_PATH) && place.root == Path::new("/");
    let request = Request {
        root: &place.root,
        host_path: own.then(|| place.host_file.clone()),
        text: &rendered.text,
        file: &rendered.file,
        here: rendered.here,
        outputs: &rendered.outputs,
        confirm_s: arguments.confirm,
        health: !arguments.no_health,
        health_limit_s: arguments.health_limit,
    };
    Ok(match apply::apply(&request, &mut tell)? {
        Outcome::Nothing => "nothing to do\n".into(),
        Outcome::Kept => "applied\n".into(),
        Outcome::Waiting { confirm_s } => format!(
            "applied; `lxmesh-gen confirm` within {confirm_s} s keeps it, else it is undone\n"
        ),
    })
}

/// To standard error, at once; a terminal that is gone is no reason to stop.
fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub fn confirm(root: &RootArgument) -> Answer {
    apply::confirm(&root.root)?;
    Ok("kept\n".into())
}

pub fn rollback(arguments: &RollbackArguments) -> Answer {
    let undone = apply::roll_back(&arguments.root.root, arguments.at_boot, &mut tell)?;
    Ok(match undone {
        true => "everything is as it was before\n".into(),
        false => "nothing to undo: no apply is unfinished\n".into(),
    })
}

/// Watches over an apply.
pub fn guard(id: &str) -> Answer {
    apply::guard(Path::new("/"), id, &mut tell)?;
    Ok(String::new())
}

pub fn adopt(arguments: &AdoptArguments) -> Answer {
    let rendered = render(&arguments.place)?;
    let kept = write::adopt(&arguments.place.root, &rendered.outputs, &arguments.file)?;
    Ok(format!(
        "{}: ours from now on; a copy is {}\n",
        arguments.file.display(),
        kept.display()
    ))
}
