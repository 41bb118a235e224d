//! Kernel settings and modules of a supervisor.

use super::template::{self, Templates};
use super::{OutputFile, RenderError};

pub fn render(templates: &Templates) -> Result<Vec<OutputFile>, RenderError> {
    Ok(vec![
        templates.output(
            "sysctl/lxmesh.conf",
            &template::NOTHING,
            '#',
            "/etc/sysctl.d/60-lxmesh.conf".into(),
            0o644,
        )?,
        templates.output(
            "sysctl/modules.conf",
            &template::NOTHING,
            '#',
            "/etc/modules-load.d/lxmesh.conf".into(),
            0o644,
        )?,
    ])
}
