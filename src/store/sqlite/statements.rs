//! Statements of every database as SQLite runs them, and what their errors mean.

use std::error::Error;
use std::fmt;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Null, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, ffi, params_from_iter};

use super::super::error::{Cause, DatabaseError, FailureKind};
use super::super::statements::{Statements, Value};

impl Statements for Connection {
    /// The transactions of a file are alone from their beginning.
    fn for_update(&self) -> &'static str {
        ""
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), DatabaseError> {
        self.prepare_cached(statement)?.execute(params_from_iter(values))?;
        Ok(())
    }

    fn values(
        &mut self,
        statement: &str,
        values: &[Value],
        columns: usize,
    ) -> Result<Vec<Value>, DatabaseError> {
        let mut select = self.prepare_cached(statement)?;
        let mut rows = select.query(params_from_iter(values))?;
        let mut cells = Vec::new();
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                cells.push(row.get(column)?);
            }
        }
        Ok(cells)
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Value::Null => Null.to_sql(),
            Value::Number(number) => number.to_sql(),
            Value::Text(text) => text.to_sql(),
            Value::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

impl FromSql for Value {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Value> {
        match value {
            ValueRef::Null => Ok(Value::Null),
            ValueRef::Integer(number) => Ok(Value::Number(number)),
            ValueRef::Text(_) => value.as_str().map(Value::from),
            ValueRef::Blob(bytes) => Ok(Value::from(bytes)),
            ValueRef::Real(_) => Err(FromSqlError::InvalidType),
        }
    }
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> DatabaseError {
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => FailureKind::Full,
            Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig) => FailureKind::Refused,
            Some(ErrorCode::OperationInterrupted) => return DatabaseError::too_slow(),
            _ => FailureKind::Unavailable,
        };
        DatabaseError::new(kind, Cause::new(SqliteError(error)))
    }
}

/// The driver's error, without the number of its code as a source.
#[derive(Debug)]
pub struct SqliteError(pub rusqlite::Error);

impl fmt::Display for SqliteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Error for SqliteError {}

/// Whether an error may leave pages that never reached the disk and that no later sync reports. A write that failed
/// does not: SQLite goes by what was written before it.
pub fn is_failed_sync(SqliteError(error): &SqliteError) -> bool {
    let Some(error) = error.sqlite_error() else { return false };
    let harmless = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ];
    error.code == ErrorCode::SystemIoFailure && !harmless.contains(&error.extended_code)
}
