//! Values as PostgreSQL takes and gives them.

use std::error::Error;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::store::statements::Value;

pub fn by_reference(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

impl ToSql for Value {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Number(number) => number.to_sql(kind, out),
            Value::Text(text) => text.to_sql(kind, out),
            Value::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as ToSql>::accepts(kind) || <String as ToSql>::accepts(kind) || <Vec<u8> as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Value, Box<dyn Error + Sync + Send>> {
        if <i64 as FromSql>::accepts(kind) {
            return i64::from_sql(kind, raw).map(Value::Number);
        }
        // What a function gives, such as `octet_length`.
        if <i32 as FromSql>::accepts(kind) {
            return i32::from_sql(kind, raw).map(|number| Value::Number(number.into()));
        }
        if <Vec<u8> as FromSql>::accepts(kind) {
            return Vec::from_sql(kind, raw).map(Value::Bytes);
        }
        String::from_sql(kind, raw).map(Value::Text)
    }

    fn from_sql_null(_: &Type) -> Result<Value, Box<dyn Error + Sync + Send>> {
        Ok(Value::Null)
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as FromSql>::accepts(kind)
            || <i32 as FromSql>::accepts(kind)
            || <Vec<u8> as FromSql>::accepts(kind)
            || <String as FromSql>::accepts(kind)
    }
}
