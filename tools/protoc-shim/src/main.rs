//! Stands in for protoc where it is not installed: turns `.proto` files into the descriptor set
//! that prost-build asks protoc for. `tools/protoc.sh` builds and runs it.
//!
//! It knows the options prost-build passes and refuses every other one, because a build must not
//! go on with an option ignored.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::Arg;
use protox::Compiler;

fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell when stderr itself is closed.
            let _ = writeln!(io::stderr(), "protoc-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    let request = Request::parse(lexopt::Parser::from_iter(args))?;
    // protox puts file, line and column into Debug only.
    let descriptors = request.compile().map_err(|error| format!("{error:?}"))?;
    let output = request.output;
    fs::write(&output, descriptors)
        .map_err(|error| format!("cannot write {}: {error}", output.display()).into())
}

struct Request {
    output: PathBuf,
    include_dirs: Vec<PathBuf>,
    include_imports: bool,
    include_source_info: bool,
    protos: Vec<PathBuf>,
}

impl Request {
    fn parse(mut args: lexopt::Parser) -> Result<Self, Box<dyn Error>> {
        let mut output = None;
        let mut include_dirs = Vec::new();
        let mut include_imports = false;
        let mut include_source_info = false;
        let mut protos = Vec::new();
        while let Some(arg) = args.next()? {
            match arg {
                Arg::Short('o') | Arg::Long("descriptor_set_out") => {
                    output = Some(PathBuf::from(args.value()?));
                }
                Arg::Short('I') | Arg::Long("proto_path") => {
                    include_dirs.push(PathBuf::from(args.value()?));
                }
                Arg::Long("include_imports") => include_imports = true,
                Arg::Long("include_source_info") => include_source_info = true,
                // What this once switched on, protoc and protox now always do.
                Arg::Long("experimental_allow_proto3_optional") => {}
                Arg::Value(proto) => protos.push(PathBuf::from(proto)),
                other => {
                    let refused = other.unexpected();
                    return Err(format!(
                        "{refused}: only descriptor sets can be made here; \
                         install protoc, or set PROTOC to one"
                    )
                    .into());
                }
            }
        }
        if protos.is_empty() {
            return Err("no input: name at least one .proto file".into());
        }
        Ok(Self {
            output: output.ok_or("no output: name the descriptor set's file with -o FILE")?,
            include_dirs,
            include_imports,
            include_source_info,
            protos,
        })
    }

    fn compile(&self) -> Result<Vec<u8>, protox::Error> {
        let mut compiler = Compiler::new(&self.include_dirs)?;
        compiler
            .include_imports(self.include_imports)
            .include_source_info(self.include_source_info)
            .open_files(&self.protos)?;
        Ok(compiler.encode_file_descriptor_set())
    }
}
