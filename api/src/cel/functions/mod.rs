//! What expressions may call: CEL's standard functions and the libraries that Kubernetes adds, one row each. The checker
//! reads a row's types, the machine calls it.
//!
//! Source: cel-spec's standard definitions, `cel-go/ext` and `k8s.io/apiserver/pkg/cel/library`.

mod addresses;
mod conversions;
mod format;
mod lists;
mod quantities;
mod strings;
mod times;
mod urls;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::types::Type;
use super::value::{List, Val};
use super::{Failure, Run};

pub(super) use conversions::plain;
pub(crate) use urls::Url;

/// What an argument may be. The target of a call is its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    Any,
    /// A type without parts, by name.
    Is(&'static str),
    List,
    Map,
    Optional,
}

/// What a call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gives {
    Dyn,
    Is(&'static str),
    ListOf(&'static str),
    /// What the first argument is.
    First,
    /// What is inside of the first argument.
    Inside,
    /// The first argument as an optional.
    Wrapped,
}

pub(super) type Call = for<'a> fn(&mut Run, &[Val<'a>]) -> Result<Val<'a>, Failure>;

/// One row.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// Called on a target: `x.size()`.
    pub(super) member: bool,
    pub(super) args: &'static [Arg],
    pub(super) gives: Gives,
    pub(super) call: Call,
}

const fn member(name: &'static str, args: &'static [Arg], gives: Gives, call: Call) -> Function {
    Function { name, member: true, args, gives, call }
}

const fn global(name: &'static str, args: &'static [Arg], gives: Gives, call: Call) -> Function {
    Function { name, member: false, args, gives, call }
}

const ANY: Arg = Arg::Any;
const B: Arg = Arg::Is("bool");
const I: Arg = Arg::Is("int");
const U: Arg = Arg::Is("uint");
const D: Arg = Arg::Is("double");
const S: Arg = Arg::Is("string");
const Y: Arg = Arg::Is("bytes");
const L: Arg = Arg::List;
const SPAN: Arg = Arg::Is("google.protobuf.Duration");
const TIME: Arg = Arg::Is("google.protobuf.Timestamp");

const BOOL: Gives = Gives::Is("bool");
const INT: Gives = Gives::Is("int");
const STRING: Gives = Gives::Is("string");

/// All rows of a name.
pub(super) fn named(name: &str) -> &'static [&'static Function] {
    static BY_NAME: LazyLock<HashMap<&str, Vec<&Function>>> = LazyLock::new(|| {
        let tables = [
            strings::ROWS,
            lists::ROWS,
            conversions::ROWS,
            times::ROWS,
            quantities::ROWS,
            addresses::ROWS,
            urls::ROWS,
            format::ROWS,
        ];
        let mut by_name: HashMap<&str, Vec<&Function>> = HashMap::new();
        for function in tables.into_iter().flatten() {
            by_name.entry(function.name).or_default().push(function);
        }
        by_name
    });
    BY_NAME.get(name).map_or(&[], Vec::as_slice)
}

impl Arg {
    pub(super) fn takes(self, value: &Val<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Is(name) => value.type_name() == name,
            Self::List => matches!(value, Val::List(_)),
            Self::Map => matches!(value, Val::Map(_)),
            Self::Optional => matches!(value, Val::Optional(_)),
        }
    }

    pub(super) fn may_take(self, type_: &Type<'_>) -> bool {
        match (self, type_) {
            (Self::Any, _) | (_, Type::Dyn) | (Self::List, Type::List(_)) | (Self::Optional, Type::Optional(_)) => true,
            (Self::Map, Type::Map(..) | Type::Object(_)) => true,
            (Self::Is(name), type_) => type_.is(name),
            _ => false,
        }
    }
}

impl Gives {
    pub(super) fn type_of<'s>(self, args: &[Type<'s>]) -> Type<'s> {
        let first = || args.first().cloned().unwrap_or(Type::Dyn);
        match self {
            Self::Dyn => Type::Dyn,
            Self::Is(name) => Type::Plain(name),
            Self::ListOf(name) => Type::list(Type::Plain(name)),
            Self::First => first(),
            Self::Inside => match first() {
                Type::List(inside) | Type::Optional(inside) => *inside,
                _ => Type::Dyn,
            },
            Self::Wrapped => Type::optional(first()),
        }
    }
}

/// The text of an argument that a row says is text.
fn text<'v>(args: &'v [Val<'_>], at: usize) -> &'v str {
    match args.get(at) {
        Some(Val::String(text)) => text,
        _ => "",
    }
}

fn int(args: &[Val<'_>], at: usize) -> i64 {
    match args.get(at) {
        Some(Val::Int(number)) => *number,
        _ => 0,
    }
}

fn list<'v, 'a>(args: &'v [Val<'a>], at: usize) -> Option<&'v List<'a>> {
    match args.get(at) {
        Some(Val::List(list)) => Some(list),
        _ => None,
    }
}

fn items<'a>(args: &[Val<'a>], at: usize) -> Vec<Val<'a>> {
    list(args, at).map(|list| list.iter().collect()).unwrap_or_default()
}

/// A count as a CEL number.
fn count<'a>(number: usize) -> Val<'a> {
    Val::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn fail<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Error(message.into()))
}
