//! `kv edit`, which needs a terminal and a shell as Unix has them.

use crate::cli::Edit;
use crate::exit::Failure;
use crate::session::Session;

pub(crate) async fn run(_session: &Session, _args: Edit) -> Result<u8, Failure> {
    Err(Failure::Usage("kv edit runs on Unix only".to_owned()))
}
