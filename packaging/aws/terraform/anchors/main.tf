# bedrock-sidecar in GovCloud: the bucket for anchors of the hash chain. Apply it in an account that the hosts' admins do not
# rule, such as the auditors'.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "bucket_name" {
  description = "audit.anchor.bucket of the daemon's configuration."
  type        = string
}

variable "host_role_arns" {
  description = "Roles of hosts in other accounts that write anchors. A role of the bucket's own account needs only the policy that the module govcloud gives it."
  type        = list(string)
  default     = []
}

variable "object_lock" {
  description = "Lets the daemon lock each anchor for audit.anchor.object_lock_days. It cannot be turned off later."
  type        = bool
  default     = true
}

variable "expire_after_days" {
  description = "Deletes anchors of this age; 0 for never. Choose more than audit.retention. A locked anchor stays as long as its lock."
  type        = number
  default     = 0
}

resource "aws_s3_bucket" "anchors" {
  bucket              = var.bucket_name
  object_lock_enabled = var.object_lock

  lifecycle {
    prevent_destroy = true
  }
}

# Who may write an object may also write over it: the former one stays as a version.
resource "aws_s3_bucket_versioning" "anchors" {
  bucket = aws_s3_bucket.anchors.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_ownership_controls" "anchors" {
  bucket = aws_s3_bucket.anchors.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "anchors" {
  bucket                  = aws_s3_bucket.anchors.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "anchors" {
  bucket = aws_s3_bucket.anchors.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "anchors" {
  count  = var.expire_after_days > 0 ? 1 : 0
  bucket = aws_s3_bucket.anchors.id

  rule {
    id     = "expire"
    status = "Enabled"
    filter {}
    expiration {
      days = var.expire_after_days
    }
    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }

  depends_on = [aws_s3_bucket_versioning.anchors]
}

data "aws_iam_policy_document" "anchors" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.anchors.arn, "${aws_s3_bucket.anchors.arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  dynamic "statement" {
    for_each = length(var.host_role_arns) > 0 ? [var.host_role_arns] : []
    content {
      sid       = "HostsOfOtherAccounts"
      actions   = ["s3:PutObject", "s3:PutObjectRetention"]
      resources = ["${aws_s3_bucket.anchors.arn}/*"]
      principals {
        type        = "AWS"
        identifiers = statement.value
      }
    }
  }
}

resource "aws_s3_bucket_policy" "anchors" {
  bucket     = aws_s3_bucket.anchors.id
  policy     = data.aws_iam_policy_document.anchors.json
  depends_on = [aws_s3_bucket_public_access_block.anchors]
}

output "bucket_name" {
  value = aws_s3_bucket.anchors.id
}
